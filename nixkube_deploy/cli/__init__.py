"""argv to a call of app, an outcome to an exit code."""


def main() -> None:
    """Entry point of ``deploy`` and ``nixkube-deploy``."""
    import gc

    gc.disable()  # Nothing that is imported is garbage; looking for it takes a tenth of the start. See ``run_async``.
    from nixkube_deploy.cli.root import run

    run()
