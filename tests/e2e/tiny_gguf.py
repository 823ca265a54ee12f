#!/usr/bin/env python3
"""Make a tiny llama model with random weights and the tokenizer of a real one.

It loads in a real Ollama in a moment and streams real (nonsense) words quickly. The chat template is left out: Ollama
would take stop words from it, at which short answers of random words would end.

usage: tiny_gguf.py SOURCE.gguf OUT.gguf [embedding=64] [layers=2] [seed=1]
"""

import sys

import gguf
import numpy as np

HEADS = 4
CONTEXT = 4096


def copy_tokenizer(reader, writer):
    for key, field in reader.fields.items():
        if not key.startswith("tokenizer.") or key == "tokenizer.chat_template":
            continue
        value = field.contents()
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, field.types[0])


def main():
    source, out, *numbers = sys.argv[1:]
    embedding, layers, seed = [int(n) for n in numbers] + [64, 2, 1][len(numbers):]
    feed_forward = embedding * 3
    random = np.random.default_rng(seed)

    reader = gguf.GGUFReader(source)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer = gguf.GGUFWriter(out, "llama")
    copy_tokenizer(reader, writer)
    writer.add_name("tiny-random-llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(embedding)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(embedding // HEADS)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(1)  # mostly F16

    def weights(name, *shape):
        writer.add_tensor(name, (random.standard_normal(shape) * 0.08).astype(np.float16))

    def norm(name):
        writer.add_tensor(name, np.ones(embedding, np.float32))

    weights("token_embd.weight", vocabulary, embedding)
    norm("output_norm.weight")
    for layer in range(layers):
        block = f"blk.{layer}."
        norm(block + "attn_norm.weight")
        norm(block + "ffn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(block + name + ".weight", embedding, embedding)
        weights(block + "ffn_gate.weight", feed_forward, embedding)
        weights(block + "ffn_up.weight", feed_forward, embedding)
        weights(block + "ffn_down.weight", embedding, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
