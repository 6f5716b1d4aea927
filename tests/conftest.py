"The tests find the same signals however they are started."
import signal


def pytest_configure(config):
    "A script's background jobs ignore Ctrl-C, and those under `nohup` the end of their terminal; so would all that the tests start and then stop."
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) == signal.SIG_IGN: signal.signal(number, handler)
