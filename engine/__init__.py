"""What keeps a run fast, small and safe.

Five files carry the method: policy (4-bit base, LoRA, log-probs, merged copy), slots (one fast decode step), rows (what
is being decoded), memory (what fits, and smaller until it fits), run_folder (one round's folder, with checkpoints).
The others keep mistakes away: alarms (loops, collapse, dead groups), supported and guard (models that would be decoded
as another one), templates, problems and hub (what others' prompts and data mean), rewards (a reward by its name),
schedule (settings and lock of schedule.sh), files (options, JSON, errors in one line).
"""
