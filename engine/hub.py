"""Whether the hub can be asked at all: without network its clients retry for minutes, a warning a try."""

import functools
import os
import sys
import urllib.error
import urllib.request


def hub_answers() -> bool:
    """One short try: without network the hub's client would retry for 23 seconds a file."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.urlopen(hub, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # an answer, if not a page
    except (OSError, ValueError) as error:
        return "CERTIFICATE" in str(error)  # the hub's client brings certificates of its own
    return True


@functools.cache
def online() -> bool:
    """Whether the hub answers, asked once; where it does not, its clients are told to look into the cache only."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and hub_answers():
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported later, and for processes that we start
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return False
