"""argv to a call of app, an outcome to an exit code."""


def main() -> None:
    """Entry point of ``deploy`` and ``nixkube-deploy``."""
    from nixkube_deploy.cli.root import run

    run()
