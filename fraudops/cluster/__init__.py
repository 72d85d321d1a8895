"""The ports of a promotion in Kubernetes: a ConfigMap for the record, a Lease for the lock, the
pods behind the Service.
"""
