"""A blind comparison by people: pairs of results on a page, votes in a file, a ranking with its uncertainty.

`pairs` reads the folder and draws what is asked; `store` keeps the votes; `page` and `pictures` show the pairs; `exchange`
writes and reads CSV; `statistics` and `report` say what the votes tell; `command` is the command line.
"""
