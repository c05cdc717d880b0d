"""Activation by deploy-rs."""
