"""The room of `08_persistence`: data that outlives its container."""

from labhelpers.persistence.data_location import DataLocations, find_data_location
from labhelpers.persistence.kills import (
    FLUSHED_AT_COMMIT,
    FLUSHED_EACH_SECOND,
    WRITTEN_EACH_SECOND,
    durability_tradeoff,
    kills,
)
from labhelpers.persistence.servers import (
    copy_volume,
    data_directory,
    host_directory,
    query,
    ulimit_option,
    wait_until_ready,
)
from labhelpers.persistence.shared_data import two_servers_one_volume
from labhelpers.persistence.survival import predict_survival, survival

__all__ = [
    "FLUSHED_AT_COMMIT",
    "FLUSHED_EACH_SECOND",
    "WRITTEN_EACH_SECOND",
    "DataLocations",
    "copy_volume",
    "data_directory",
    "durability_tradeoff",
    "find_data_location",
    "host_directory",
    "kills",
    "predict_survival",
    "query",
    "survival",
    "two_servers_one_volume",
    "ulimit_option",
    "wait_until_ready",
]
