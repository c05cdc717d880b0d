"""``deploy completion``: the script that makes a shell ask this program what may come next.

The shell always asks ``nixkube-deploy``, also for ``deploy``: another program of that name, deploy-rs, deploys when it
is started without arguments, and would do so at the press of TAB.
"""

import click

from nixkube_deploy.cli.complete import LINE, VARIABLE, WORD

_BASH = f"""\
_nixkube_deploy_completion() {{
    local line=${{COMP_LINE:0:COMP_POINT}} kind value help
    COMPREPLY=()
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            file) compopt -o default 2>/dev/null ;;
            dir) compopt -o dirnames 2>/dev/null ;;
        esac
    done < <(
        export {VARIABLE}=bash {LINE}="$line" {WORD}="$2"
        nixkube-deploy 2>/dev/null
    )
}}
complete -o nosort -F _nixkube_deploy_completion deploy nixkube-deploy 2>/dev/null ||
    complete -F _nixkube_deploy_completion deploy nixkube-deploy
"""

_ZSH = f"""\
_nixkube_deploy_completion() {{
    local kind value help
    local -a found
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            plain) found+=("${{value//:/\\\\:}}${{help:+:$help}}") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done < <(
        export {VARIABLE}=zsh {LINE}="${{(j: :)words[1,CURRENT-1]}} $PREFIX"
        nixkube-deploy 2>/dev/null
    )
    (( $#found )) && _describe -V 'nixkube-deploy' found
}}
compdef _nixkube_deploy_completion deploy nixkube-deploy
"""

_FISH = f"""\
function __nixkube_deploy_completion
    set -lx {VARIABLE} fish
    set -lx {LINE} (commandline -cp)
    for line in (nixkube-deploy 2>/dev/null)
        set -l part (string split \\t -- $line)
        switch $part[1]
            case plain
                printf '%s\\t%s\\n' $part[2] $part[3]
            case file dir
                __fish_complete_path (commandline -ct)
        end
    end
end
for name in deploy nixkube-deploy
    complete --no-files --command $name --arguments '(__nixkube_deploy_completion)'
end
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command()
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def command(shell: str) -> None:
    """Print what makes SHELL complete deploy, nixkube-deploy and nixkube-lab.

    Commands and options, files, hosts, @groups and labels after --on, runs after show and resume. Pressing TAB reads
    the inventory on the line (inventory.yaml where none is there yet); it contacts no host and runs no inventory.

    \b
    eval "$(deploy completion bash)"               in ~/.bashrc
    eval "$(deploy completion zsh)"                in ~/.zshrc, after compinit
    deploy completion fish > ~/.config/fish/completions/deploy.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    of_click = get_completion_class(shell)
    assert of_click is not None
    lab = of_click(click.Command("nixkube-lab"), {}, "nixkube-lab", "_NIXKUBE_LAB_COMPLETE")
    click.echo(SCRIPTS[shell])
    click.echo(ShellComplete.source(lab), nl=False)  # The base's: bash's own starts a bash to ask for its version.
