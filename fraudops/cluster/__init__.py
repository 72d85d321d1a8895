"""The ports of a promotion in Kubernetes.

The record is a ConfigMap, the lock is a Lease, and the pods are those behind the Service.
"""
