"""Seconds of a document, predicted and measured."""
