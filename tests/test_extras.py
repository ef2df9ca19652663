"""Without an extra, what needs it says which."""

import subprocess
import sys


def test_a_model_without_pytorch_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import tesserec\n"
        "tesserec.Popularity\n"
        "try:\n    tesserec.Sparc\n"
        "except tesserec.errors.MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "tesserec.Sparc needs torch, which is not installed; run: pip install 'tesserec[train]'"
    )
