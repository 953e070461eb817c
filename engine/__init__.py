"""What keeps a run fast, small and safe: policy, slots, memory, run_folder, alarms, files."""
