"""The grammar of evaluation and building. What the settings do is the Nix backend's."""

from nixkube_deploy.inventory import units, values
from nixkube_deploy.inventory.shape import Count, Field, Flag, Record, TableOf, Text, fields_of
from nixkube_deploy.model.building import BuildSettings, EvaluationSettings

_SETTING = Text(what="the name of a nix.conf setting", pattern=r"^[a-z][a-z0-9-]*$")
_LINE = Text(what="text on one line", pattern=r"^[^\r\n]*$")
_INPUT = Text(what="the name of a flake input, such as nixpkgs", pattern=r"^[A-Za-z_][A-Za-z0-9_'/-]*$")

EVALUATION = Record(
    name="evaluation",
    doc="How the flake is evaluated.",
    fields={
        **fields_of(
            EvaluationSettings,
            {
                "workers": (Count(minimum=1, maximum=256), "Evaluators side by side; absent: what the machine allows."),
                "max_memory": (
                    units.size(),
                    "Memory that all evaluators together may use; absent: a share of what is free.",
                ),
                "impure": (Flag(), "Evaluate with --impure."),
            },
        ),
        "override_inputs": Field(
            TableOf(key=_INPUT, value=values.FLAKE), "Flake inputs to replace, as --override-input does."
        ),
    },
    hints={"max_jobs": "put it under `build`"},
)

BUILD = Record(
    name="build",
    doc="How systems are built on the controller; what is not said here is left to its nix.conf.",
    fields={
        **fields_of(
            BuildSettings,
            {
                "max_jobs": (Count(minimum=0, maximum=1024), "Builds side by side; 0: only on remote builders."),
                "cores": (Count(minimum=0, maximum=1024), "Processors for one build; 0: all."),
                "builders": (_LINE, "Remote builders, as `builders` in nix.conf."),
            },
        ),
        "options": Field(TableOf(key=_SETTING, value=_LINE), "Any other nix.conf setting, as --option does."),
    },
    hints={"workers": "put it under `evaluation`", "on": "a host says `build_on: target`"},
)
