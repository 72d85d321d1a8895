"""The errors that a user can meet, each with the exit code of its program.

    FraudopsError               1   a crash, caused by a defect in fraudops
    ├── SettingsError          64   a flag, a setting or a file is wrong
    │   ├── DataError               a data file does not fit its schema
    │   └── UnknownVersionError     the registry has no such version
    ├── RefusedError           65   a gate, a bundle check or a pod refused; nothing has changed
    │   ├── BundleError             a bundle does not have its digest, or scores unlike its pipeline
    │   └── SignatureRefusedError   a verdict or a waiver is unsigned, altered, or by an unknown key
    ├── StoreDownError         75   PostgreSQL, MLflow, the service or a lock is unavailable: retry
    │   ├── SpoolFullError          the audit spool is full; nothing is scored without an audit
    │   └── LockBusyError           another promotion holds the lock
    │                               (defined in fraudops.promotion.ports)
    └── UnknownWriteError      75   a write had no answer and may have happened; a retry is safe
                                    (defined in fraudops.promotion.ports)

A message says what happened, to which file, field or setting, and what to do. It contains no card
data.
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


class SignatureRefusedError(RefusedError):
    pass


class StoreDownError(FraudopsError):
    exit_code = 75


class SpoolFullError(StoreDownError):
    pass
