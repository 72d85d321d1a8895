"""Every error that a user can meet, and the exit code of each.

    FraudopsError               1   a crash: a defect of ours
    ├── SettingsError          64   a flag, a setting or a file of settings is wrong
    │   ├── DataError               a data file does not fit its schema
    │   └── UnknownVersionError     the registry has no such version
    ├── RefusedError           65   a gate, a bundle check or a pod said no: nothing has changed
    │   └── BundleError             a bundle is not what its digest says, or does not score as its pipeline does
    ├── StoreDownError         75   PostgreSQL, MLflow, the service or a lock is not to be had now: try again
    │   └── SpoolFullError          the audit spool has no room: nothing is scored unaudited
    └── UnknownWriteError      75   (fraudops.promotion.ports) a write was not answered: it may have happened, and to try again is safe

A message says what, which, and what to do, and never carries card data.
"""


class FraudopsError(Exception):
    exit_code = 1


class SettingsError(FraudopsError):
    exit_code = 64


class DataError(SettingsError):
    pass


class UnknownVersionError(SettingsError):
    pass


class RefusedError(FraudopsError):
    exit_code = 65


class BundleError(RefusedError):
    pass


class StoreDownError(FraudopsError):
    exit_code = 75


class SpoolFullError(StoreDownError):
    pass
