"""Evidence: what was measured for every claim, committed with the project, and how it is made.

``evidence/<slug>.json`` holds the verdicts of a page with everything they follow from; ``evidence/<slug>.parquet`` is
one compact run of its default preset. A missing or damaged file is simply not there: pages work without it.
"""

from normviz.evidence.record import (
    ClaimRecord,
    Evidence,
    IntervalRecord,
    PresetRecord,
    evidence_folder,
    fingerprint,
    read_evidence,
    write_evidence,
)
from normviz.evidence.recorded import Recorded, recorded_run, write_recorded
from normviz.evidence.summary import Summary, summary_of, verdicts_table

__all__ = [
    "ClaimRecord",
    "Evidence",
    "IntervalRecord",
    "PresetRecord",
    "Recorded",
    "Summary",
    "evidence_folder",
    "fingerprint",
    "read_evidence",
    "recorded_run",
    "summary_of",
    "verdicts_table",
    "write_evidence",
    "write_recorded",
]
