"The tests find the same signals however they are started, and try the same examples each time."

import signal

from hypothesis import settings

settings.register_profile("same", derandomize=True)  # new ones: pytest --hypothesis-profile=default
settings.load_profile("same")


def pytest_configure(config):
    "A script's background jobs ignore Ctrl-C, and those under `nohup` the end of their terminal; so would all that the tests start and then stop."
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(number, handler)
