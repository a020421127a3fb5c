# Says which container tool a job finds here, and how it is installed, as lines `name=value`.
# Runs on the login node, and on a compute node before compute_node.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154  # jarvice_top is set before this text

# What a job sources before anything else (jobs/executor.sh).
for jarvice_file in "$jarvice_top/.jarvice_custom_env" "$HOME/.jarvice_custom_env"; do
    if [ -r "$jarvice_file" ]; then
        # shellcheck source=/dev/null
        . "$jarvice_file" >/dev/null 2>&1 </dev/null
        echo "custom_env=$jarvice_file"
        break
    fi
done

# JARVICE's own scripts call it singularity.
echo "singularity=$(command -v singularity)"
jarvice_tool=$(command -v apptainer || command -v singularity)
echo "tool=$jarvice_tool"
if [ -n "$jarvice_tool" ]; then
    echo "tool_version=$("$jarvice_tool" --version 2>&1 </dev/null | head -n 1)"
    jarvice_lib=$("$jarvice_tool" buildcfg LIBEXECDIR 2>/dev/null </dev/null)
    echo "setuid=no"
    for jarvice_file in "$jarvice_lib"/{apptainer,singularity}/bin/starter-suid; do
        [ ! -u "$jarvice_file" ] || echo "setuid=yes"
    done
fi
if unshare --user --map-root-user true 2>/dev/null; then
    echo "user_namespaces=yes"
else
    echo "user_namespaces=no"
fi
