"What Hypothesis draws for the tests of scores: masks, subjects with many ties, masks with a spacing."

import numpy as np
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

quick = settings(max_examples=40, deadline=None)
masks = st.integers(1, 30).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n)))
few = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.0])  # few values: many ties


def subject_of(elements=few):
    return st.integers(1, 25).flatmap(lambda n: st.tuples(arrays(np.float64, n, elements=elements), arrays(bool, n)))


@st.composite
def shaped(draw, empty=True, most=7):
    "Two masks, 2-D or 3-D, and a spacing."
    n = draw(st.integers(2, 3))
    shape = draw(st.tuples(*[st.integers(2, most if n == 2 else 5)] * n))
    p, t = (draw(arrays(bool, shape)) for _ in range(2))
    if not empty:
        assume(p.any() and t.any())
    return p, t, draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 7.0])] * n))
