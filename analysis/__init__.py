"""What came of a run.

    python -m analysis.report A B       # all of these for two evaluation folders, with pictures and the trace page
    python -m analysis.metrics A B      # also baselines, budget, words, perplexity, behaviours; each takes --help
    python -m analysis.plot run RUN     # pictures of a run folder
    python -m analysis.trace A B        # the same problems before and after, as a web page
"""
