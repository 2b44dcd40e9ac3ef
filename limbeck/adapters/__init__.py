"""The border with other ecosystems: models, tokenizers and files come in and go out here, and nowhere else.

    source      what `--teacher` and `--student` accept, as nets; which rows a net reads
    causal_lm, vision_language, seq2seq, encoder, sentence, modules      the nets
    data        rows from files and names; the split by content
    chat, text  rows as tokens
    weights     safetensors, whole and finite, or a reason
    pipeline    UNets and transformers of diffusers as fields; what their schedulers say (convention), and whether it
                is so (consistent); rows as pictures, students as pipelines (pipeline_store)
    surgery     students cut from their teachers
    lora        students that learn low-rank changes
    store       products in the format of their ecosystem

Conventions (masks from lengths, pixels from [0, 1], decoders that begin with their start token) are converted in these
modules. The package imports none of them, so that listing recipes needs no model library.
"""
