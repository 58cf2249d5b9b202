"""The site: pip install -e '.[docs]' && sphinx-build docs runs/site."""

project = "repro"
author = "The authors of repro"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "repro"
myst_heading_anchors = 3
exclude_patterns = ["conf.py", "generate.py", "notebooks"]
html_show_copyright = False
html_show_sourcelink = False
highlight_language = "bash"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
