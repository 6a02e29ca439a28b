"""Tests of :mod:`normviz.federated`."""
