import pytest
from transformers import AutoConfig, AutoTokenizer

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import base, cpt
from training.runs import BASE, half_written, log_lines, weights


def test_a_base_of_the_recipes_shape_that_cpt_goes_on_from(flags, corpus):
    out = base.main(flags("base", **BASE, num_key_value_heads=2, max_position_embeddings=300))
    config = AutoConfig.from_pretrained(out)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("qwen3", 32, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert (config.intermediate_size, config.max_position_embeddings, config.tie_word_embeddings) == (85, 300, True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(corpus / "tokenizer").get_vocab()
    assert config.vocab_size == len(tokenizer)
    assert half_written(out) == []
    record = ModelRecord.load(out)
    assert (record.stage, record.base, record.parents, record.licences) == ("base", "", [], ["CC BY 4.0"])
    losses = [line["loss"] for line in log_lines(out)]
    assert losses[-1] < losses[0]

    after = cpt.main(flags("cpt", model_name_or_path=out, max_steps=1))
    assert (ModelRecord.load(after).parents, ModelRecord.load(after).licences) == ([str(out)], ["CC BY 4.0"])
    with pytest.raises(InputError, match="reads 300 tokens at most"):
        cpt.main(flags("long", model_name_or_path=out, max_length=301))


def test_the_same_seed_is_the_same_model(flags):
    first, second, other = (base.main(flags(str(i), **{**BASE, "seed": seed})) for i, seed in enumerate((3, 3, 4)))
    assert weights(first) == weights(second) != weights(other)


def test_shapes_that_do_not_divide(flags):
    with pytest.raises(InputError, match="`hidden_size` 32, `num_attention_heads` 5"):
        base.main(flags("out", **{**BASE, "num_attention_heads": 5}))
    with pytest.raises(InputError, match="use `cpt`"):
        base.main(flags("out", **{**BASE, "model_name_or_path": "some/model"}))
