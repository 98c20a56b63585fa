"""Which engines play a simulation's sites."""

from yoriai.errors import ConfigError

ENGINES = ("inprocess", "one-pass", "flower")


def check_engine(engine: str, ray_address: str) -> None:
    """Raise ConfigError unless there is such an engine and, where a cluster is named, it takes one and that answers."""
    if engine not in ENGINES:
        raise ConfigError("no such engine", found=engine, expected=" or ".join(ENGINES))
    if not ray_address:
        return
    if engine != "flower":
        raise ConfigError(
            "--ray-address goes with Flower's engine alone",
            found=f"--engine {engine}",
            expected="--engine flower",
            remedy="leave --ray-address out: the other engines play all sites in one process",
        )
    from yoriai.simulations.engines.cluster import check_cluster

    check_cluster(ray_address)
