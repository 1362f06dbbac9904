"""Tests of stages/embed."""
