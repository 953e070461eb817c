"""What keeps a run fast, small and safe.

Ten files carry the method: policy (4-bit base, LoRA, log-probs, merged copy), slots (one fast decode step), graphs (the
same as one launch on a card), draw (from logits to a token), rows (what is being decoded), groups (which problems a
step trains on), measuring (validations of a round), memory (what fits, and smaller until it fits), run_folder and
checkpoints (one round's folder). answers reads what sft.py learns from.
The others keep mistakes away: alarms (loops, collapse, dead groups), supported and guard (models that would be decoded
as another one), templates, problems and hub (what others' prompts and data mean), rewards (a reward by its name),
schedule (settings, checks and lock of schedule.sh), kept (what an interrupted evaluation has finished), progress and
hours (how far, how long), files (options, JSON, errors in one line).
"""

import sys


def quiet_interrupt(kind, error, trace) -> None:
    """Ctrl-C before a script has begun, as while torch is imported, is one line as well."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = quiet_interrupt
