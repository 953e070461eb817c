"""What the benches run on: models of real shapes with random weights, prompts, and lengths drawn beforehand."""

import os

import torch

from dev.model_table import MODELS, config_of
from engine.files import Options, die
from engine.policy import load_base, pick_dtype

# name: vocabulary, hidden, intermediate, layers, heads, KV heads, whether the head is the embedding
SHAPES = {
    "tiny": (64, 64, 64, 1, 1, 1, True),
    "1M": (512, 128, 384, 4, 4, 4, True),
    "5M": (2048, 256, 768, 5, 4, 2, True),
    "25M": (8192, 384, 1536, 8, 6, 6, True),
    "100M": (32000, 768, 2048, 12, 12, 4, True),
}
HUB = {model.hub: name for name, model in MODELS.items()}
CONTEXT = 131072
LONGEST_PROMPT = 60


def shape_config(size: str):
    """The config of a real model (model_table.MODELS), or a Qwen2 config of one of SHAPES."""
    from transformers import Qwen2Config

    if size in MODELS:
        return config_of(MODELS[size], eos_token_id=1, pad_token_id=0)
    if size not in SHAPES:
        die(f"--model_size {size} is unknown; there are {', '.join([*SHAPES, *MODELS])}")
    vocab, hidden, inner, layers, heads, kv_heads, tied = SHAPES[size]
    return Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=CONTEXT,
        eos_token_id=1,
        pad_token_id=0,
    )


def random_model(size: str, device: torch.device):
    """A model with random weights, built where it will run, in the type that `--dtype auto` takes there."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    before, config = torch.get_default_dtype(), shape_config(size)
    torch.set_default_dtype(pick_dtype("auto", device))
    with torch.device(device):
        model = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # nobody ends by itself: lengths are forced
    return model.eval()


def real_model(folder: str, device: torch.device):
    """The model in a folder, in the type that `--dtype auto` takes on this device."""
    from transformers import GenerationConfig

    model = load_base(Options(model=folder, load_4bit=False, device=str(device))).eval()
    model.generation_config = GenerationConfig()  # nobody ends by itself, and no penalty of its own
    return model


def check_folder(model: str) -> None:
    """Exits with status 2 where --model is given and is no folder of a model."""
    if model and not os.path.isfile(os.path.join(model, "config.json")):
        die(f"--model {model} is no folder with a config.json")


def complete(cfg, **sizes: tuple[int, int]) -> None:
    """Gives each size that is not set its default: (of a random model, of a real one)."""
    for name, (random, real) in sizes.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, real if cfg.model else random)


def save_random_model(size: str, device: torch.device, folder: str) -> tuple[int, int]:
    """Writes a random model and its tokenizer to a folder; returns its vocabulary and its number of parameters."""
    model = random_model(size, device)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    word_tokenizer(model.config.vocab_size).save_pretrained(folder)
    return model.config.vocab_size, sum(p.numel() for p in model.parameters())


def word_tokenizer(vocab: int):
    """Token i is the word "w<i>": text and ids can be turned into each other without loss. w0 pads, w1 ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", chat_template=template)


def make_prompts(n: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """n random prompts of 20 to 60 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, LONGEST_PROMPT + 1, (n,), generator=generator).tolist()
    return [torch.randint(2, vocab, (length,), generator=generator).tolist() for length in lengths]


def forced_lengths(n: int, cap: int, seed: int = 0) -> list[int]:
    """Response lengths of n rollouts: log-normal around a quarter of the cap, cut at the cap, at least 1.

    With sigma 0.9 some 6 % reach the cap, and the longest of a batch is several times the middle one, as with
    reasoning models.
    """
    normal = torch.randn(n, generator=torch.Generator().manual_seed(seed + 1))
    return (0.25 * cap * (0.9 * normal).exp()).round().clamp(1, cap).int().tolist()
