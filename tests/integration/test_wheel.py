"The wheel installs without the extras in a clean environment, and runs there."

import check_wheel


def test_the_wheel_installs_and_runs():
    check_wheel.main()
