"""`reconcile --watch` does not repeat a line in every pass."""

from jobs.reconcile import News


def test_a_line_is_said_again_only_after_a_pass_without_it() -> None:
    said: list[str] = []
    news = News(said.append)
    for lines in (["down", "down"], ["down"], ["up"], ["down"]):
        for line in lines:
            news.say(line)
        news.end_pass()
    assert said == ["down", "up", "down"]
