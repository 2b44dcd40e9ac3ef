"""Citations from the records of the index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["bibtex"]


def bibtex(record: Mapping[str, Any]) -> str:
    """Write the BibTeX entry of a recipe's paper; authors are left to the archive.

    Args:
        record: a record with key, title and paper ("arXiv:..." or an address).

    Example:
        >>> print(bibtex({"key": "gkd", "title": "On-Policy Distillation", "paper": "arXiv:2306.13649"}))
        @misc{gkd,
          title = {{On-Policy Distillation}},
          year = {2023},
          eprint = {2306.13649},
          archivePrefix = {arXiv},
          url = {https://arxiv.org/abs/2306.13649},
        }
    """
    fields = {"title": f"{{{record['title']}}}"}
    number = re.fullmatch(r"arXiv:(\S+)", record["paper"])
    if number:
        eprint = number[1]
        if re.match(r"\d{4}\.", eprint):
            fields["year"] = f"20{eprint[:2]}"
        fields |= {"eprint": eprint, "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{eprint}"}
    else:
        fields["howpublished" if " " in record["paper"] else "url"] = record["paper"]
    return "\n".join([f"@misc{{{record['key']},", *(f"  {k} = {{{v}}}," for k, v in fields.items()), "}"])
