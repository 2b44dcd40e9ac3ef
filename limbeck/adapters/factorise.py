"""Encoders with a factorised embedding: a narrow table of words and a linear map to the width of the layers.

Most weights of a small BERT are its table of words: 11.7 of 22.7 million in all-MiniLM-L6-v2.

Legend of shapes: V words, P positions, S segments, D width of the layers, E width of the table, F = E - 1.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.linalg import helmert
from torch import Tensor
from transformers import BertModel, ElectraConfig, ElectraModel

from limbeck.errors import BadValue

__all__ = ["factorise", "principal"]

NEAR = 16  # positions whose mean stands for all in the words' own inputs
SAME = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id",
)  # fmt: skip


def principal(rows_VD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean of rows and their first principal directions.

    Args:
        rows_VD: the rows.
        count: directions, E.

    Returns:
        The mean (D,), and the directions (E, D), orthonormal, the widest first.

    Example:
        >>> mean, basis = principal(torch.tensor([[1.0, 0.0], [5.0, 0.0], [3.0, 0.0]]), 1)
        >>> mean.tolist(), basis.abs().tolist()
        ([3.0, 0.0], [[1.0, 0.0]])
    """
    covariance_DD = torch.cov(rows_VD.T)
    return rows_VD.mean(0), torch.linalg.eigh(covariance_DD).eigenvectors.flip(1)[:, :count].T


@torch.no_grad()
def factorise(model: Any, size: int) -> ElectraModel:
    """Build an ELECTRA encoder with a table of E columns that begins where a BERT encoder is.

    BERT's first layer reads h = LN(w + p + s), with a word, a position and a segment. By principal components of the
    words, LN(w + mean p + s_0) ~ m + c B with c (E,). The student reads LN'(c / r + p') W + m with W = r B, where r is
    the mean deviation of the c; positions and segments take the same way through B. The E - 1 components are turned so
    that every c sums to zero: LN' then takes no component away, and changes the length alone.

    Args:
        model: a bare BERT encoder.
        size: E, columns of the table.

    Returns:
        The student, without dropout, its layers copied.

    Raises:
        BadValue: another architecture, or a size that is not at least 2 and below the width.

    Source: the factorisation, Lan et al., "ALBERT", arXiv:1909.11942, section 3.1; as a model, Clark et al., "ELECTRA",
        arXiv:2003.10555.
    """
    if not isinstance(model, BertModel) or model.config.is_decoder:
        raise BadValue(f"from-teacher: embedding is known for bare BERT encoders, not for {type(model).__name__}")
    config, table = model.config, model.embeddings
    if not 2 <= size < config.hidden_size:
        raise BadValue(f"from-teacher: embedding must be 2 to {config.hidden_size - 1}, got {size}")
    shape = {name: getattr(config, name) for name in SAME} | {"embedding_size": size}
    student = ElectraModel(ElectraConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    positions_PD = table.position_embeddings.weight
    segments_SD = table.token_type_embeddings.weight
    mean_D = positions_PD[:NEAR].mean(0)
    raw_VD = table.word_embeddings.weight + mean_D + segments_SD[0]
    input_VD = table.LayerNorm(raw_VD)
    middle_D, basis_FD = principal(input_VD, size - 1)
    basis_ED = torch.from_numpy(helmert(size)).to(basis_FD).T @ basis_FD
    words_VE = (input_VD - middle_D) @ basis_ED.T
    spread = words_VE.std(1, correction=0).mean()
    # what the layer norm of the teacher does to a small shift of its input, but for the norm of each single word
    through_DE = table.LayerNorm.weight[:, None] * basis_ED.T / (raw_VD.std(1, correction=0).mean() * spread)
    own = student.embeddings
    own.word_embeddings.weight.copy_(words_VE / spread)
    own.position_embeddings.weight.copy_((positions_PD - mean_D) @ through_DE)
    own.token_type_embeddings.weight.copy_((segments_SD - segments_SD[0]) @ through_DE)
    student.embeddings_project.weight.copy_(basis_ED.T * spread)
    student.embeddings_project.bias.copy_(middle_D)
    student.encoder.load_state_dict(model.encoder.state_dict())
    return student.eval()
