"""Which of RDS's databases to sweep: each instance that the discovery selects is a target of its
own, or skipped with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self, TypeVar

from reaper.client.fields import (
    ConfigurationError,
    are_names,
    flag_from_tag,
    parse_json,
    reject_unknown_keys,
    text,
)
from reaper.client.redaction import shown
from reaper.client.target import Auth, EngineName, Target, Tls
from reaper.message import DiscoveredTarget, Notice
from reaper.model import SweepTarget
from reaper.rds import QUIET_MINUTES, Aws, AwsRefused, Facts, Proxy
from reaper.rules import DELEGATED_RULES, Rules, RulesPatch, check_delegated

TAG_PREFIX = "reaper:"
_SECRET, _WAKE = "secret", "wake"
_SECRET_TAG, _WAKE_TAG = (f"tag {TAG_PREFIX}{name}" for name in (_SECRET, _WAKE))
# As the value of the tag reaper:secret.
_MASTER = "master"
# The names of the secrets that RDS keeps for master users begin so.
_MANAGED = "rds!"

_ENGINES = {
    "mysql": EngineName.MYSQL,
    "mariadb": EngineName.MYSQL,
    "aurora-mysql": EngineName.MYSQL,
    "postgres": EngineName.POSTGRES,
    "aurora-postgresql": EngineName.POSTGRES,
}

# A status says what RDS is doing with an instance; while it does these, the database answers.
_ANSWERING = (
    "available",
    "backing-up",
    "configuring-enhanced-monitoring",
    "configuring-iam-database-auth",
    "configuring-log-exports",
    "modifying",
    "resetting-master-credentials",
    "storage-config-upgrade",
    "storage-initialization",
    "storage-optimization",
)

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Why(StrEnum):
    """Why a selected database is not swept."""

    MISSING = "missing"
    NAME = "name"
    ENGINE = "engine"
    STATUS = "status"
    CLUSTER = "cluster"
    TAGS = "tags"
    LOGIN = "login"
    ASLEEP = "asleep"
    PROXY = "proxy"


@dataclass(frozen=True)
class Skipped:
    """A selected database that is not swept, and why."""

    target: str
    why: Why
    detail: str

    def to_json(self) -> dict[str, str]:
        """As the planner's answer shows it."""
        return {"target": self.target, "reason": self.why, "detail": self.detail}


class _Skip(Exception):
    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Findings:
    """What a discovery found, ordered by name. `problems` are the questions that AWS refused to
    answer.

    `clusters` has the names of the targets that are a cluster's instances, by its
    identifier.
    """

    targets: tuple[DiscoveredTarget, ...] = ()
    clusters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """Which databases to select, and as whom to log in to them.

    Those that carry `tag` are selected, and those whose identifier, or their cluster's, is in
    `ids`; where `vpc` is given, only those within it. `role` is assumed for asking AWS, in another
    account for example.
    """

    tag: tuple[str, str] | None = ("reaper", "on")
    ids: tuple[str, ...] = ()
    vpc: str | None = None
    role: str | None = None
    user: str = "reaper"
    master_secrets: bool = False

    @classmethod
    def from_json(cls, given: str, where: str) -> Self:
        """Read a JSON object, in which an empty text counts as null.

        Raises ConfigurationError naming the key.
        """
        try:
            found = parse_json(given)
        except ValueError as problem:
            raise ConfigurationError(
                f"{where} is {shown(where, given)}, which is not JSON: {problem}"
            ) from None
        reject_unknown_keys(found, [f.name for f in fields(cls)], where)
        found = {key: None if value == "" else value for key, value in found.items()}
        discovery = cls(
            tag=_tag(found, where) if "tag" in found else cls.tag,
            ids=_ids(found, where),
            vpc=text(found, "vpc", where),
            role=text(found, "role", where),
            user=text(found, "user", where) or cls.user,
            master_secrets=flag_from_tag(
                found.get("master_secrets") or False, f"{where}: master_secrets"
            ),
        )
        if not discovery.tag and not discovery.ids:
            raise ConfigurationError(
                f"{where} has neither a tag nor ids, so nothing would be found"
            )
        return discovery

    def selects(self, instance: Instance) -> bool:
        """Whether the instance is among the databases to sweep."""
        if self.vpc and instance.vpc != self.vpc:
            return False
        is_tagged = self.tag is not None and instance.tags.get(self.tag[0]) == self.tag[1]
        return is_tagged or instance.id in self.ids or instance.cluster_id in self.ids


def _tag(given: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    value = text(given, "tag", where)
    if value is None:
        return None
    key, equals, wanted = value.partition("=")
    if not key or not equals:
        raise ConfigurationError(
            f"{where}: tag is {shown('tag', value)}; write key=value, such as reaper=on"
        )
    if key.startswith(TAG_PREFIX):
        raise ConfigurationError(
            f"{where}: tag is {shown('tag', value)}; what begins with {TAG_PREFIX} is a setting"
        )
    return key, wanted


def _ids(given: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = given.get("ids") or []
    if not are_names(value):
        raise ConfigurationError(
            f"{where}: ids is {shown('ids', value)}; give a list of instances and clusters"
        )
    return tuple(value)


@dataclass(frozen=True)
class Instance:
    """A DB instance as RDS describes it, with its cluster where it has one that could be read."""

    facts: Facts
    cluster: Facts = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its identifier, which is the target's name."""
        return str(self.facts["DBInstanceIdentifier"])

    @property
    def cluster_id(self) -> str | None:
        """The identifier of its cluster, None for an instance without one."""
        return self.facts.get("DBClusterIdentifier")

    @property
    def vpc(self) -> str | None:
        """The VPC that it is in, where RDS says so."""
        return (self.facts.get("DBSubnetGroup") or {}).get("VpcId")

    @cached_property
    def tags(self) -> dict[str, str]:
        """Its cluster's, over which its own take precedence. A reader that Aurora adds by itself
        has none of its own.
        """
        given = [*self.cluster.get("TagList", []), *self.facts.get("TagList", [])]
        return {tag["Key"]: tag.get("Value", "") for tag in given}

    @property
    def settings(self) -> dict[str, str]:
        """The tags that begin with `reaper:`, by the rest of their names."""
        ours = [key for key in self.tags if key.startswith(TAG_PREFIX)]
        return {key.removeprefix(TAG_PREFIX): self.tags[key] for key in sorted(ours)}

    @property
    def pauses(self) -> bool:
        """Whether it pauses itself when nobody is connected."""
        scaling = self.cluster.get("ServerlessV2ScalingConfiguration") or {}
        return (
            self.facts.get("DBInstanceClass") == "db.serverless" and scaling.get("MinCapacity") == 0
        )

    @property
    def takes_iam(self) -> bool:
        """Whether an IAM token may be used to log in."""
        return any(
            known.get("IAMDatabaseAuthenticationEnabled") for known in (self.facts, self.cluster)
        )

    @property
    def master_secret(self) -> str | None:
        """The ARN of the secret that RDS keeps for the master user, None unless it is ready. With
        Aurora it belongs to the cluster.
        """
        found = self.facts.get("MasterUserSecret") or self.cluster.get("MasterUserSecret") or {}
        return (
            found.get("SecretArn") if found.get("SecretStatus") in ("active", "rotating") else None
        )


def _discovered(instance: Instance, wanted: Discovery) -> DiscoveredTarget:
    """The instance as a target; raise _Skip where it cannot be one. Pure."""
    engine = _ENGINES.get(instance.facts["Engine"])
    if engine is None:
        raise _Skip(Why.ENGINE, f"{instance.facts['Engine']} is none of {', '.join(_ENGINES)}")
    status, endpoint = instance.facts["DBInstanceStatus"], instance.facts.get("Endpoint") or {}
    if status not in _ANSWERING or not endpoint.get("Address"):
        raise _Skip(Why.STATUS, f"its status is {status}")
    if instance.cluster_id and not instance.cluster:
        raise _Skip(Why.CLUSTER, f"its cluster {instance.cluster_id} could not be read")
    try:
        rules = _rules(instance.settings)
    except ConfigurationError as problem:
        raise _Skip(Why.TAGS, str(problem)) from None
    login = _login(instance, wanted)
    target = Target(
        name=instance.id,
        engine=engine,
        host=endpoint["Address"],
        port=endpoint["Port"],
        user=login.get("user", wanted.user),
        auth=Auth.SECRET if "secret" in login else Auth.IAM,
        secret=login.get("secret"),
        tls=Tls.VERIFY,
    )
    return DiscoveredTarget(SweepTarget(target, instance.id, rules))


def _rules(settings: Mapping[str, str]) -> RulesPatch:
    """The rules that tags set, each as an environment variable would."""
    texts: dict[str, str] = {}
    flag_from_tag(settings.get(_WAKE, "false"), _WAKE_TAG)
    for name, value in settings.items():
        tag = _tag_of(name)
        check_delegated([name], tag, also=(_SECRET, _WAKE))
        if not value:
            raise ConfigurationError(f"{tag} is empty")
        if name in DELEGATED_RULES:
            # AWS allows no comma in a tag's value, so names in it are separated by spaces.
            is_list = isinstance(getattr(Rules, name), tuple)
            texts[name] = ",".join(value.split()) if is_list else value
    return RulesPatch.from_texts(texts, _tag_of)


def _tag_of(name: str) -> str:
    return f"tag {TAG_PREFIX}{name}"


def _login(instance: Instance, wanted: Discovery) -> dict[str, str]:
    """The secret that the tag names, and its user where RDS knows it; nothing for an IAM login."""
    secret = instance.settings.get(_SECRET)
    if secret is None:
        return _iam(instance, wanted)
    if secret != _MASTER and _MANAGED not in secret:
        return {"secret": secret}
    if not wanted.master_secrets:
        raise _Skip(
            Why.LOGIN, f"{_SECRET_TAG} asks for the master user's secret, which is not allowed here"
        )
    if instance.master_secret is None:
        raise _Skip(Why.LOGIN, "RDS keeps no secret for its master user, or it is not ready")
    return {"secret": instance.master_secret, "user": str(instance.facts["MasterUsername"])}


def _iam(instance: Instance, wanted: Discovery) -> dict[str, str]:
    if wanted.role:
        raise _Skip(
            Why.LOGIN,
            f"an IAM login ends at the account's border; give {_SECRET_TAG} a secret's ARN",
        )
    if not instance.takes_iam:
        raise _Skip(Why.LOGIN, f"it takes no IAM login, and {_SECRET_TAG} is missing")
    return {}


def discover(wanted: Discovery, aws: Aws) -> Findings:
    """Find the databases that are wanted.

    A question that AWS refuses to answer becomes a problem of the findings, and the rest is found
    nevertheless.
    """
    return _Search(wanted, aws).run()


_Candidate = tuple[Instance, DiscoveredTarget]


@dataclass
class _Search:
    wanted: Discovery
    aws: Aws
    skipped: list[Skipped] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self) -> Findings:
        instances, clusters = self._told(self.aws.instances), self._told(self.aws.clusters)
        of_name = {found["DBClusterIdentifier"]: found for found in clusters or ()}
        known = [
            Instance(facts, of_name.get(facts.get("DBClusterIdentifier"), {}))
            for facts in instances or ()
        ]
        if instances is not None:
            self._miss({name for instance in known for name in (instance.id, instance.cluster_id)})
        selected = ((instance, instance) for instance in known if self.wanted.selects(instance))
        candidates = self._kept(selected, lambda instance, _: _discovered(instance, self.wanted))
        found = self._shielded(self._awake(candidates))
        return Findings(
            tuple(sorted((target for _, target in found), key=lambda found: found.target.name)),
            _clusters([instance for instance, _ in found]),
            tuple(sorted(self.skipped, key=lambda skipped: skipped.target)),
            tuple(dict.fromkeys(self.problems)),
        )

    def _told(self, ask: Callable[[], _Made]) -> _Made | None:
        """What AWS answers; None where it refuses."""
        try:
            return ask()
        except AwsRefused as problem:
            self.problems.append(str(problem))
            return None

    def _miss(self, known: set[str | None]) -> None:
        missing = [name for name in self.wanted.ids if name not in known]
        self.skipped += [
            Skipped(name, Why.MISSING, "there is no instance or cluster of this name")
            for name in missing
        ]

    def _kept(
        self, given: Iterable[tuple[Instance, _Given]], step: Callable[[Instance, _Given], _Made]
    ) -> list[tuple[Instance, _Made]]:
        """What a step makes of each; those that it skips are noted."""
        kept = []
        for instance, so_far in given:
            try:
                kept.append((instance, step(instance, so_far)))
            except _Skip as skip:
                self.skipped.append(Skipped(instance.id, skip.why, str(skip)))
        return kept

    def _awake(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """All but those that a login would wake, or keep awake. One to which somebody is connected
        does not pause, whether or not we log in.
        """
        pausing = [
            one.id for one, _ in candidates if one.pauses and one.settings.get(_WAKE) != "true"
        ]
        in_company = self._told(lambda: self.aws.in_company(pausing)) if pausing else None

        def awake(instance: Instance, target: DiscoveredTarget) -> DiscoveredTarget:
            if instance.id in pausing and instance.id not in (in_company or ()):
                raise _Skip(
                    Why.ASLEEP,
                    f"it pauses itself, and nobody was connected through the last {QUIET_MINUTES} "
                    f"minutes; the {_WAKE_TAG}=true has it swept all the same",
                )
            return target

        return self._kept(candidates, awake)

    def _shielded(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """All, with the addresses of the proxies in front of them protected: the idle connections
        of a proxy's pool look like abandoned sessions.
        """
        proxies = self._told(self.aws.proxies) if candidates else None
        behind = {name for instance, _ in candidates for name in (instance.id, instance.cluster_id)}
        shields = [
            (proxy, *self._shield(proxy)) for proxy in proxies or () if proxy.behind & behind
        ]

        def shielded(instance: Instance, target: DiscoveredTarget) -> DiscoveredTarget:
            if proxies is None:
                raise _Skip(
                    Why.PROXY, "whether an RDS Proxy stands in front of it could not be asked"
                )
            for proxy, hosts, notice in shields:
                if proxy.behind & {instance.id, instance.cluster_id}:
                    target = _protected(target, proxy, hosts, notice)
            return target

        return self._kept(candidates, shielded)

    def _shield(self, proxy: Proxy) -> tuple[list[str], Notice]:
        """The addresses from which a proxy may connect, empty where they cannot be read, and the
        notice that says how precisely they are known.
        """
        if hosts := self._told(lambda: self.aws.addresses(proxy)):
            return hosts, Notice.PROXY
        return self._told(lambda: self.aws.networks(proxy)) or [], Notice.PROXY_SUBNETS


def _clusters(instances: Sequence[Instance]) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(instance.id for instance in instances if instance.cluster_id == name)
        for name in sorted({instance.cluster_id for instance in instances if instance.cluster_id})
    }


def _protected(
    target: DiscoveredTarget, proxy: Proxy, hosts: Sequence[str], notice: Notice
) -> DiscoveredTarget:
    if not hosts:
        raise _Skip(
            Why.PROXY,
            f"the addresses of {proxy.name}, the RDS Proxy in front of it, could not be read",
        )
    protected = replace(target.target, rules=target.target.rules.protecting_hosts(hosts))
    return DiscoveredTarget(protected, tuple(dict.fromkeys((*target.notices, notice))))
