"Physics: the equations against Bloch's, and a table of tissues that can exist."

import numpy as np

from mmccd.scanner import RELAXATION, mr_signal, null_time


def test_the_equations_agree_with_bloch():
    "The recovery of the magnetisation, integrated step by step, ends where the closed form says."
    t1, TR, TE, TI, dt = 1124.0, 9000.0, 110.0, 2400.0, 0.1
    recovered = 0.0
    for _ in range(round((TR - TE - TI) / dt)):
        recovered += dt * (1 - recovered) / t1
    m = -recovered
    for _ in range(round(TI / dt)):
        m += dt * (1 - m) / t1
    assert abs(abs(m) * 0.86 * np.exp(-TE / 95) - mr_signal(t1, 95.0, 0.86, TR, TE, TI)) < 1e-4


def test_null_time_silences_any_tissue():
    for t1 in (500.0, 884.0, 4163.0):
        assert mr_signal(t1, 100.0, 1.0, 8000.0, 100.0, null_time(t1, 8000.0, 100.0)) < 1e-9


def test_tables_hold_physics():
    for name, rows in RELAXATION.items():
        for t1, t2, pd in rows:
            assert 0 < t2 < t1, name
            assert 0 < pd <= 1, name
