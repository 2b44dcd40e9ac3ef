"""What users of other systems ask for and complain about, and the tests that hold it here: none may get lost."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

# the wish or fault, where it was told, and the tests of it: file::test
FAULTS = {
    "teacher logits once, offline (trl#2255, trl#1975, unsloth#11556)": (
        "adapters/test_recalled.py::test_the_teacher_is_paid_once_and_students_learn_without_it",
        "adapters/test_recalled.py::test_killed_from_outside_it_resumes_to_the_same_bytes",
        "adapters/test_recalled.py::test_the_draws_of_a_row_are_its_own",
    ),
    "how to make the file of logits (axolotl#2692, axolotl#2978, vllm#8926)": (
        "adapters/test_recalled.py::test_a_source_says_what_is_kept",
        "adapters/test_cache.py::test_rows_are_read_on_their_target_positions_in_any_order",
        "adapters/test_listing.py::test_a_run_learns_from_lists_and_a_cache_keeps_them",
    ),
    "vocabularies padded differently within a family (trl#2215, trl#3028, torchtune#2119)": (
        "kernels/test_fused.py::test_padding_of_the_vocabulary_is_cut_away",
        "adapters/test_causal_lm.py::test_vocabularies_of_one_family_are_cut_and_others_refused",
    ),
    "a teacher of another tokenizer, trained on in silence (trl#4562)": (
        "faults/test_bad_input.py::test_another_vocabulary",
        "adapters/test_listing.py::test_what_a_server_may_get_wrong",
    ),
    "tokenizers aligned wrongly, or byte-level ones only (trl#4392, trl#4393)": (
        "parts/test_chunks.py::test_chunks_tile_both_sides_and_end_at_the_same_bytes",
        "parts/test_chunks.py::test_real_tokenizers_tile_any_text",
        "parts/test_chunks.py::test_directories_of_different_tokenizers_and_architectures",
    ),
    "the fast path computed another loss (trl#5731, trl#6629, ms-swift#6663)": (
        "kernels/test_fused.py::test_values_and_gradients_are_those_of_the_plain_form",
        "kernels/test_listed.py::test_gradients_through_the_fused_sum_are_finite_differences",
        "adapters/test_causal_lm.py::test_losses_are_means_over_targets_of_the_naive_form",
    ),
    "a loss that depends on how a batch is split (trl#4719)": (
        "test_loop.py::test_the_split_into_micro_batches_does_not_matter",
        "adapters/test_causal_lm.py::test_losses_do_not_depend_on_how_a_batch_is_split",
        "contract/test_recipes.py::test_two_processes_equal_one",
    ),
    "out of memory by whole logits (ms-swift#10097, DistillKit#24, unsloth#11554)": (
        "kernels/test_fused.py::test_memory_stays_far_below_that_of_the_logits",
        "test_examine.py::test_logits_made_a_few_at_a_time_give_the_same_figures",
    ),
    "rollouts take most of the time (trl#4568)": (
        "parts/test_uneven_rollouts.py::test_rows_that_ended_leave_the_batch",
        "parts/test_uneven_rollouts.py::test_copies_of_a_prompt_are_read_once_and_say_different_things",
        "parts/test_uneven_rollouts.py::test_short_prompts_are_read_apart_from_long_ones",
    ),
    "teachers behind servers score no given tokens; top-k reverse KL without a tail collapses (verl#7590, verl#5041)": (
        "adapters/test_listing.py::test_a_loss_from_lists_of_all_tokens_is_the_loss_from_the_model",
        "kernels/test_listed.py::test_a_list_of_all_tokens_is_the_whole_distribution",
        "kernels/test_listed.py::test_with_the_rest_as_an_outcome_a_fixed_log_ratio_has_the_gradient_of_reverse_kl",
    ),
    "what a loss of sampled tokens estimates, and in which direction (slime#1068, slime#2254)": (
        "kernels/test_sampled.py::test_values_that_are_said_to_be_unbiased_are",
        "kernels/test_sampled.py::test_derivatives_have_the_mean_of_that_of_reverse_kl",
        "kernels/test_sampled.py::test_the_literal_derivative_of_k1_would_teach_nothing",
    ),
    "end tokens and templates that differ between student and teacher (ms-swift#9526, tinker#796)": (
        "adapters/test_text.py::test_ends_templates_and_the_way_of_cutting_are_compared",
    ),
    "recipes that do not reproduce (NeMo-RL#1527, tinker#796)": (
        "contract/test_recipes.py::test_its_evidence_is_of_this_code",
        "contract/test_recipes.py::test_it_makes_a_claim_with_a_control",
    ),
    "a resumed run that loses data or takes it twice (trl#7274, NeMo-RL#3480)": (
        "test_resume.py::test_killed_anywhere_ends_the_same",
        "contract/test_recipes.py::test_a_run_cut_in_the_middle_resumes_to_the_same_bits",
    ),
    "padding and positions that leak into advantages (trl#6626, trl#7024)": (
        "parts/test_returns.py::test_returns_by_hand",
        "parts/test_returns.py::test_whitened_advantages_have_mean_0_and_deviation_1_whatever_stands_elsewhere",
        "parts/test_policy.py::test_groups_are_kept_apart_whatever_was_left_out_and_in_whatever_order",
    ),
    "settings that are dropped or mean something else (verl, GKD's temperature, the side that beta weighs)": (
        "faults/test_bad_input.py::test_an_unknown_player",
        "faults/test_bad_input.py::test_an_unknown_setting",
        "parts/test_token_parts.py::test_values_and_gradients_are_those_of_the_plain_divergence_over_shared_tokens",
    ),
    "other architectures, and how many tokens are enough (LLaMA-Factory#5946, prime-rl#2245)": (
        "adapters/test_source.py::test_an_encoder_decoder_predicts_the_next_token",
        "adapters/test_recalled.py::test_the_report_is_the_distance_to_what_is_read",
    ),
}


@cache
def named_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_held_by_tests_that_are_there(fault: str) -> None:
    for test in FAULTS[fault]:
        file, _, name = test.partition("::")
        assert name in named_in(file), test


def test_all_seventeen_are_here() -> None:
    assert len(FAULTS) == 17
