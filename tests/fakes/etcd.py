"""An etcd of a few members whose answers are values, and the text its gateway would print on a host."""

import json
from dataclasses import dataclass, field, replace

from nixkube_deploy.model.etcd import Member, Voice
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult


def voices_of(names: str = "cp1 cp2 cp3", leader: str = "", index: int = 100) -> dict[str, Voice]:
    """A healthy cluster; the first member leads unless another one is named."""
    numbers = {name: str(number) for number, name in enumerate(names.split(), start=1)}
    members = tuple(
        Member(id=number, name=name, peers=(f"https://{name}:2380",), clients=(f"https://{name}:2379",))
        for name, number in numbers.items()
    )
    leads = numbers[leader or names.split(maxsplit=1)[0]]
    return {
        name: Voice(id=number, leader=leads, index=index, applied=index, members=members)
        for name, number in numbers.items()
    }


@dataclass
class FakeEtcd:
    """Answers curl's calls on the hosts of a ``FakeShell``; what was sent to move the leader is kept."""

    voices: dict[str, Voice] = field(default_factory=voices_of)
    moves: list[str] = field(default_factory=list)
    stubborn: bool = False
    """The leader says yes to a move and stays."""

    def respond(self, host: Host, command: Command) -> CommandResult:
        """What ``sh -c`` prints there."""
        script = command.argv[2]
        voice = self._asked(host, script)
        if "transfer-leadership" in script:
            target = next(v.id for v in self.voices.values() if f'{{"targetID": "{v.id}"}}' in script)
            self.moves.append(f"{host.name} to {target}")
            if not self.stubborn:
                self.voices = {name: replace(each, leader=target) for name, each in self.voices.items()}
            return CommandResult(exit_code=0, stdout="{}\n0 200 \n")
        if voice is None:
            return CommandResult(exit_code=0)
        if not voice.answers:
            code = 7 if voice.absent else 28
            return CommandResult(exit_code=0, stdout=f"@status\n\n{code} 000 {voice.trouble}\n")
        return CommandResult(exit_code=0, stdout=answers(voice))

    def _asked(self, host: Host, script: str) -> Voice | None:
        for name, voice in self.voices.items():
            if f"https://{name}:2379" in script:
                return voice
        return self.voices.get(host.name)


def answers(voice: Voice) -> str:
    """A member's four answers, as the script prints them."""
    header = {"member_id": voice.id, "cluster_id": "9"}
    status = {"header": header, "leader": voice.leader, "raftIndex": str(voice.index)}
    status |= {"raftAppliedIndex": str(voice.applied)} | ({"isLearner": True} if voice.learner else {})
    members = [
        {"ID": m.id, "name": m.name, "peerURLs": list(m.peers), "clientURLs": list(m.clients)}
        | ({"isLearner": True} if m.learner else {})
        for m in voice.members
    ]
    alarms = [{"memberID": member, "alarm": kind} for member, kind in voice.alarms]
    healthy = not voice.trouble and not voice.alarms
    health = {"health": "true" if healthy else "false"} | ({"reason": voice.trouble} if voice.trouble else {})
    texts = {"status": status, "members": {"members": members}, "alarms": {"alarms": alarms}, "health": health}
    code = {"health": 200 if healthy else 503}
    return "".join(f"@{n}\n{json.dumps(t)}\n0 {code.get(n, 200)} \n" for n, t in texts.items()) + "\n@end\n"
