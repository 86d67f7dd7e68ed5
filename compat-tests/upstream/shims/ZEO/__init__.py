"""Stands in for ZEO in the scripts that upstream tests write to start `runzeo`."""
