"""What a user sees of an experiment under way: a picture of it, and the views that draw the picture."""

from rapidfireai.progress.lines import LineView
from rapidfireai.progress.picture import Picture, RunRow, picture_of
from rapidfireai.progress.views import View, choose_view, fetching, sending

__all__ = ["LineView", "Picture", "RunRow", "View", "choose_view", "fetching", "picture_of", "sending"]
