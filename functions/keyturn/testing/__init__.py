"""Contracts and fakes. They ship, so that an outside adapter can inherit the proof."""
