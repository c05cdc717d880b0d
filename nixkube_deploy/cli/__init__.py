"""argv to a call of app, an outcome to an exit code."""


def main() -> None:
    """Entry point of ``deploy`` and ``nixkube-deploy``."""
    import gc

    gc.disable()  # Nothing that is imported is garbage; looking for it takes a tenth of the start. See ``run_async``.
    from os import environ

    if environ.get("_NIXKUBE_DEPLOY_COMPLETE"):
        from nixkube_deploy.cli.complete import answer

        answer()
    else:
        from nixkube_deploy.cli.root import run

        run()
