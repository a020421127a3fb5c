# JupyterLab as an interactive job: serves under its prefix, as its URL says. @PROGRAMS@ is where it
# is installed.
# shellcheck shell=bash
export HOME=$JARVICE_JOB_DIR/home
mkdir -p "$HOME/.jupyter/labconfig" && cd "$HOME" || exit 1

# It asks its maker for news otherwise.
cat >.jupyter/labconfig/page_config.json <<'JSON'
{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}
JSON
cat >notebook.ipynb <<'JSON'
{"nbformat": 4, "nbformat_minor": 5,
 "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
 "cells": [
  {"id": "a", "cell_type": "markdown", "metadata": {}, "source":
   ["# A notebook on a compute node\n", "The browser talks to jarvice-slurmd, and that through SSH to this job."]},
  {"id": "b", "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": null, "source":
   ["import os, math\n",
    "from IPython.display import SVG\n",
    "print('on', os.environ['PROCESS_NODENAME'], 'in job', os.environ['SLURM_JOB_ID'])\n",
    "wave = [50 - 45 * math.sin(x / 25) * math.exp(-x / 250) for x in range(500)]\n",
    "points = ' '.join(f'{x},{y:.1f}' for x, y in enumerate(wave))\n",
    "line = f'<polyline points=\"{points}\" fill=\"none\" stroke=\"steelblue\"/>'\n",
    "SVG(f'<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"500\" height=\"100\">{line}</svg>')"]}]}
JSON

echo "https://%PUBLICADDR%:5902/%BASEURL%/lab/tree/notebook.ipynb?token=%RANDOM64%" \
    >"$JARVICE_JOB_DIR/url.txt"
exec "@PROGRAMS@/jupyter" lab --no-browser --ip=0.0.0.0 --port="$JARVICE_SERVICE_PORT" \
    --ServerApp.port_retries=0 --ServerApp.root_dir="$HOME" \
    --ServerApp.base_url="/$JARVICE_INGRESSPATH" \
    --IdentityProvider.token="$(head -c 64 "$JARVICE_JOB_DIR/random128")"
