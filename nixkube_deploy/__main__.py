"""Run the command line with ``python -m nixkube_deploy``."""

from nixkube_deploy.cli import main

if __name__ == "__main__":
    main()
