"""Which of RDS's databases to sweep: each instance that was meant is a target of its own, or
skipped with a reason.
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
# As the value of the tag reaper:secret
_MASTER = "master"
# How the names of the secrets begin that RDS keeps for master users
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
    """Why a database that was meant is not swept."""

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
    target: str
    why: Why
    detail: str

    def to_json(self) -> dict[str, str]:
        return {"target": self.target, "reason": self.why, "detail": self.detail}


class _Skip(Exception):
    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Findings:
    """What a discovery found, in the order of the names. `problems` are what AWS would not tell.

    `clusters` has the names of the errands' targets that are a cluster's instances, by its
    identifier.
    """

    errands: tuple[DiscoveredTarget, ...] = ()
    clusters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """What to look for, and as whom to log in.

    `role` is assumed for looking, in another account for example.
    """

    tag: tuple[str, str] | None = ("reaper", "on")
    ids: tuple[str, ...] = ()
    vpc: str | None = None
    role: str | None = None
    user: str = "reaper"
    master_secrets: bool = False

    @classmethod
    def from_json(cls, given: str, where: str) -> Self:
        """Read a JSON object, in which an empty text is as good as none; raise ConfigurationError
        naming the key.
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

    def means(self, instance: Instance) -> bool:
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
        return str(self.facts["DBInstanceIdentifier"])

    @property
    def cluster_id(self) -> str | None:
        return self.facts.get("DBClusterIdentifier")

    @property
    def vpc(self) -> str | None:
        return (self.facts.get("DBSubnetGroup") or {}).get("VpcId")

    @cached_property
    def tags(self) -> dict[str, str]:
        """Its own over its cluster's: a reader that Aurora adds by itself has no others."""
        given = [*self.cluster.get("TagList", []), *self.facts.get("TagList", [])]
        return {tag["Key"]: tag.get("Value", "") for tag in given}

    @property
    def settings(self) -> dict[str, str]:
        """What its tags say to us."""
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
        return any(
            known.get("IAMDatabaseAuthenticationEnabled") for known in (self.facts, self.cluster)
        )

    @property
    def master_secret(self) -> str | None:
        """The ARN of what RDS keeps for the master user; with Aurora it is the cluster's."""
        found = self.facts.get("MasterUserSecret") or self.cluster.get("MasterUserSecret") or {}
        return (
            found.get("SecretArn") if found.get("SecretStatus") in ("active", "rotating") else None
        )


def _errand(instance: Instance, wanted: Discovery) -> DiscoveredTarget:
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
            # A tag's value can hold no comma, so that names in it stand apart by spaces.
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
    """Find what is wanted. What AWS would not tell is a problem of the findings; the rest is found
    all the same.
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
        meant = ((instance, instance) for instance in known if self.wanted.means(instance))
        candidates = self._kept(meant, lambda instance, _: _errand(instance, self.wanted))
        found = self._shielded(self._awake(candidates))
        return Findings(
            tuple(sorted((errand for _, errand in found), key=lambda errand: errand.target.name)),
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
        """All but those that a login would wake, or keep awake.

        With somebody connected none would have slept.
        """
        pausing = [
            one.id for one, _ in candidates if one.pauses and one.settings.get(_WAKE) != "true"
        ]
        in_company = self._told(lambda: self.aws.in_company(pausing)) if pausing else None

        def awake(instance: Instance, errand: DiscoveredTarget) -> DiscoveredTarget:
            if instance.id in pausing and instance.id not in (in_company or ()):
                raise _Skip(
                    Why.ASLEEP,
                    f"it pauses itself, and nobody was connected through the last {QUIET_MINUTES} "
                    f"minutes; "
                    f"the {_WAKE_TAG}=true has it swept all the same",
                )
            return errand

        return self._kept(candidates, awake)

    def _shielded(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """All with the addresses of the proxies in front of them protected: a proxy's pool looks
        like sleepers.
        """
        proxies = self._told(self.aws.proxies) if candidates else None
        behind = {name for instance, _ in candidates for name in (instance.id, instance.cluster_id)}
        shields = [
            (proxy, *self._shield(proxy)) for proxy in proxies or () if proxy.behind & behind
        ]

        def shielded(instance: Instance, errand: DiscoveredTarget) -> DiscoveredTarget:
            if proxies is None:
                raise _Skip(
                    Why.PROXY, "whether an RDS Proxy stands in front of it could not be asked"
                )
            for proxy, hosts, notice in shields:
                if proxy.behind & {instance.id, instance.cluster_id}:
                    errand = _protected(errand, proxy, hosts, notice)
            return errand

        return self._kept(candidates, shielded)

    def _shield(self, proxy: Proxy) -> tuple[list[str], Notice]:
        """From where a proxy may connect, and how well that is known; nothing where it cannot be
        told.
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
    errand: DiscoveredTarget, proxy: Proxy, hosts: Sequence[str], notice: Notice
) -> DiscoveredTarget:
    if not hosts:
        raise _Skip(
            Why.PROXY,
            f"the addresses of {proxy.name}, the RDS Proxy in front of it, could not be read",
        )
    target = replace(errand.target, rules=errand.target.rules.protecting_hosts(hosts))
    return DiscoveredTarget(target, tuple(dict.fromkeys((*errand.notices, notice))))
