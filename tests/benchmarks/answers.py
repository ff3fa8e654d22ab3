"""Prompts whose right next token is known, of the six answer types that the method's authors used: languages, capitals,
countries, colours, numbers and months.
"""

from collections.abc import Iterator
from dataclasses import replace

from app.attribution import Settings, run_prompt
from app.attribution.run import PromptRun
from db.errors import AtlasError
from indexer.language_model import LanguageModel

RANK = 10
"""A prompt is kept where the right token is among as many of the most probable."""

FACTS = {
    "language": (
        "In {} most people speak",
        "France French,Germany German,Italy Italian,Spain Spanish,Portugal Portuguese,Russia Russian,Japan Japanese,"
        "China Chinese,Greece Greek,Poland Polish,Turkey Turkish,Sweden Swedish,Finland Finnish,Denmark Danish,"
        "Hungary Hungarian,Norway Norwegian,Iran Persian,Egypt Arabic,Brazil Portuguese,Mexico Spanish,England English,"
        "Ukraine Ukrainian,Vietnam Vietnamese,Korea Korean,Israel Hebrew,Romania Romanian,Thailand Thai,Cuba Spanish",
    ),
    "capital": (
        "The capital of {} is",
        "France Paris,Germany Berlin,Italy Rome,Spain Madrid,Portugal Lisbon,Russia Moscow,Japan Tokyo,China Beijing,"
        "Greece Athens,Poland Warsaw,Austria Vienna,Sweden Stockholm,Ireland Dublin,Denmark Copenhagen,"
        "Hungary Budapest,Norway Oslo,Iran Tehran,Egypt Cairo,Cuba Havana,Peru Lima,England London,Kenya Nairobi,"
        "Iraq Baghdad,Belgium Brussels,Finland Helsinki,Syria Damascus",
    ),
    "country": (
        "The city of {} lies in the country of",
        "Paris France,Berlin Germany,Rome Italy,Madrid Spain,Lisbon Portugal,Moscow Russia,Tokyo Japan,Beijing China,"
        "Athens Greece,Warsaw Poland,Vienna Austria,Stockholm Sweden,Dublin Ireland,Copenhagen Denmark,"
        "Budapest Hungary,Oslo Norway,Tehran Iran,Cairo Egypt,Havana Cuba,Lima Peru,Istanbul Turkey,"
        "Nairobi Kenya,Baghdad Iraq,Brussels Belgium,Helsinki Finland,Damascus Syria",
    ),
    "colour": (
        "Everybody knows that the colour of {} is",
        "snow white,grass green,blood red,coal black,milk white,gold yellow,chocolate brown,ink black,tomatoes red,"
        "lemons yellow,leaves green,tar black,salt white,rubies red,emeralds green,sapphires blue,cherries red,"
        "soot black,chalk white,bananas yellow,ravens black",
    ),
    "number": (
        "The number that comes after {} is",
        "one two,two three,three four,four five,five six,six seven,seven eight,eight nine,nine ten,ten eleven,"
        "eleven twelve,twelve thirteen,thirteen fourteen,fourteen fifteen,fifteen sixteen,sixteen seventeen,"
        "seventeen eighteen,eighteen nineteen,nineteen twenty",
    ),
    "month": (
        "The month that comes after {} is",
        "January February,February March,March April,April May,May June,June July,July August,August September,"
        "September October,October November,November December,December January",
    ),
}


def kept(model: LanguageModel, settings: Settings) -> Iterator[tuple[str, PromptRun]]:
    """Answer type and run of each prompt that the model gets nearly right, its target the right token; the types take
    turns, so that the first few hold all of them.
    """
    rows = [
        [(kind, sentence.format(fact.split()[0]), f" {fact.split()[1]}") for fact in facts.split(",")]
        for kind, (sentence, facts) in FACTS.items()
    ]
    for place in range(max(map(len, rows))):
        for kind, prompt, answer in (row[place] for row in rows if place < len(row)):
            try:
                run = run_prompt(model, prompt, replace(settings, target=answer))
            except AtlasError:  # the answer is not one token of this model
                continue
            if (run.log_probabilities > run.log_probabilities[run.target_id]).sum() < RANK:
                yield kind, run
