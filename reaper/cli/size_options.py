"""What the options of `size` say: how large the database is, and what its functions have to do."""

from __future__ import annotations

import typer

from reaper.cli.options import seconds
from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName
from reaper.grants import Product, usual_product
from reaper.model import Flavour
from reaper.sizing import Load, Step, limit_of_capacity, limit_of_memory, memory_of


def limit_of(
    flavour: Flavour,
    memory: float | None,
    instance_class: str | None,
    capacity: tuple[float | None, float | None],
    max_connections: int | None,
) -> Step:
    """max_connections by the one option that says how large the database is.

    Raises ConfigurationError where none or several do.
    """
    most, least = capacity
    found: list[Step] = []
    if memory is not None:
        found.append(limit_of_memory(flavour, memory))
    if instance_class is not None:
        found.append(limit_of_memory(flavour, memory_of(instance_class)))
    if most is not None:
        found.append(limit_of_capacity(flavour, most, least))
    if max_connections is not None:
        found.append(Step("max_connections", max_connections, "as you say"))
    if len(found) != 1:
        raise ConfigurationError(
            "say how large it is: one of --memory, --instance-class, --max-acu, --max-connections"
        )
    return found[0]


_FLAVOURS = {
    (EngineName.MYSQL, Product.MYSQL): Flavour.MYSQL,
    (EngineName.MYSQL, Product.RDS): Flavour.MYSQL,
    (EngineName.MYSQL, Product.AURORA): Flavour.AURORA_MYSQL,
    (EngineName.MYSQL, Product.MARIADB): Flavour.MARIADB,
    (EngineName.MYSQL, Product.RDS_MARIADB): Flavour.MARIADB,
    (EngineName.POSTGRES, Product.POSTGRES): Flavour.POSTGRES,
    (EngineName.POSTGRES, Product.RDS): Flavour.POSTGRES,
    (EngineName.POSTGRES, Product.AURORA): Flavour.AURORA_POSTGRES,
}


def flavour_of(engine: EngineName, product: Product | None) -> Flavour:
    """The flavour whose limits a product has; raise ConfigurationError where the engine has no such
    product.
    """
    product = product or usual_product(engine)
    if (engine, product) not in _FLAVOURS:
        known = [known for of_engine, known in _FLAVOURS if of_engine is engine]
        raise ConfigurationError(f"--flavour is {product}; {engine} has {', '.join(known)}")
    return _FLAVOURS[engine, product]


def load_of(text: str) -> Load:
    """The load that a --function describes; raise ConfigurationError for what is none."""
    name, _, rest = text.partition("=")
    try:
        rate, duration, *response = rest.split(",")
        load = Load(
            name, float(rate.removesuffix("/s")), seconds(duration), *map(seconds, response)
        )
    except (ValueError, TypeError, typer.BadParameter):
        load = None
    if not load or not name or not 0 < load.rate < 10**6 or not load.duration:
        raise ConfigurationError(
            f"--function is {text!r}; write checkout=50,200ms, or checkout=50,200ms,20ms"
        )
    return load
