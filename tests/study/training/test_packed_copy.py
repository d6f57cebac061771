"""Copies in wide words keep every bit."""

import torch

from study.training.packed_copy import copy_words, empty_rows, widest_word, words


def test_the_widest_word_divides_the_elements() -> None:
    float32 = [widest_word(width, torch.float32) for width in (1, 2, 3, 4, 6, 16)]
    assert float32 == [
        torch.float32,
        torch.complex64,
        torch.float32,
        torch.complex128,
        torch.complex64,
        torch.complex128,
    ]
    assert [widest_word(width, torch.float64) for width in (1, 2, 3)] == [
        torch.float64,
        torch.complex128,
        torch.float64,
    ]


def test_words_are_as_wide_as_strides_allow() -> None:
    dense = torch.randn(3, 8)
    (whole,) = words(dense)
    assert whole.dtype == torch.complex128
    assert whole.shape == (3, 2)
    assert whole.data_ptr() == dense.data_ptr()
    assert [x.dtype for x in words(dense, torch.randn(3, 6))] == [torch.complex64] * 2
    assert words(torch.randn(3, 5))[0].dtype == torch.float32
    assert words(torch.randn(3, 12)[:, 1:9])[0].dtype == torch.float32, "rows begin at odd offsets"
    assert words(torch.randn(3, 10)[:, :8])[0].dtype == torch.complex64, "the stride is 10 floats"
    assert words(torch.randn(3, 3, dtype=torch.float64))[0].dtype == torch.float64


def test_copies_keep_every_bit_of_a_nan() -> None:
    source = torch.tensor([[0x7FC00001, 0x7F800000, 0, 1]], dtype=torch.int32).view(torch.float32)
    target = torch.zeros(1, 4)
    copy_words(source, target)
    assert torch.equal(target.view(torch.int32), source.view(torch.int32))


def test_empty_rows_are_aligned_to_words() -> None:
    rows = empty_rows(2, 3, 5, dtype=torch.float32, device=torch.device("cpu"))
    assert rows.shape == (2, 3, 5)
    assert rows.stride() == (24, 8, 1)
