"""The tree of errors, and what their texts say."""

from __future__ import annotations

import pytest

from muster.core import errors


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (errors.MusterError, Exception),
        (errors.UserError, errors.MusterError),
        (errors.UserError, ValueError),
        (errors.FieldError, errors.UserError),
        (errors.JobError, errors.UserError),
        (errors.DataError, errors.UserError),
        (errors.RunFolderError, errors.UserError),
        (errors.TrainingError, errors.MusterError),
    ],
)
def test_every_error_has_its_place_in_the_tree(error, parent):
    assert issubclass(error, parent)


def test_a_failed_training_is_not_the_users_mistake():
    assert not issubclass(errors.TrainingError, errors.UserError)


def test_every_error_of_the_module_is_under_the_root():
    made = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(made) == 9
    assert all(issubclass(e, errors.MusterError) for e in made)


def test_a_field_error_says_what_was_found_and_what_is_allowed():
    error = errors.FieldError("sync", "cohort", "ten", "an integer at least 1")
    assert str(error) == "sync.cohort is 'ten', but must be an integer at least 1"
    assert (error.owner, error.field, error.found) == ("sync", "cohort", "ten")
    assert error.allowed == "an integer at least 1"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("cohrt", "; did you mean 'cohort'?"), ("cohort", "; did you mean 'cohort'?"), ("zzz", ""), ("", "")],
)
def test_the_nearest_spelling(word, hint):
    assert errors.nearest(word, ["deadline_secs", "cohort"]) == hint


def test_nothing_is_near_when_nothing_is_known():
    assert errors.nearest("cohort", []) == ""
