"""The verbs of `./lab`: the environment, JupyterLab, the notebooks' runner, the doctor and the benchmark."""
