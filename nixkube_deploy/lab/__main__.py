"""``python -m nixkube_deploy.lab`` is ``nixkube-lab``."""

from nixkube_deploy.lab.cli import main

main()
