"""Which full stops end no sentence.

Listed are abbreviations that stand before a capital, a digit or a script without capitals: before a small letter ("etc.
and so on") no sentence ends anyway. Left out are those that often close a sentence ("etc.", "Inc."), and those that are
also a word (German "mag", Spanish "ir"): a pause too many is heard less than two sentences run together.
"""

from __future__ import annotations

import re
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# English and French; German; Dutch; Spanish, Portuguese, Italian and Romanian; Polish; Russian and Ukrainian; Turkish;
# Indonesian and Vietnamese; Marathi, Hindi, Bengali, Tamil and Telugu. One letter alone always counts.
_WORDS = _words(
    """
    mr mrs ms mx dr drs prof rev hon st mt col gen maj capt cmdr lt sgt cpl adm gov rep pres supt messrs vs ave blvd cf
    viz al approx dept univ mme mmes mlle mlles mgr vve av bd boul env apr
    hr hrn fr frl dipl ing bzw ca vgl inkl exkl evtl ggf bspw sog zzgl geb gest insb str abs anm hrsg
    gebr fa fam dres pfr dhr mw mevr bijv resp incl excl zgn ds jhr
    sr sra sres srta srtas dn dña ud uds vd vds dra lic arq excmo excma avda pza sig sigg dott avv geom rag cav egr gent
    gral cnel tte hnos fco ilmo ilma spett exmo exma exmos exmas srs sras eng engª profª trav dl dna dvs şos sf
    ul pl np tzn tzw hab inż płk św śś bł ks bp abp woj pow
    ул пер просп пл наб пос обл корп стр кв тел акад проф доц инж тов св ст гл рис табл ср вул пров смт буд акад
    doç yrd arş gör sn bkz örn mah şti alb hz uzm
    bpk jl gg kec kab tn ny sdr sdri hj ust ts ths pgs gs bs tp nxb
    डॉ प्रो श्री श्रीमती सौ प्रा सुश्री ডাঃ ডঃ মোঃ প্রো অধ্যা திரு திருமதி செல்வி டாக் பேரா శ్రీ శ్రీమతి ప్రొ
    """
)
_BEFORE_NUMBERS = _words(
    """
    no nos nr nrs nº num núm fig figs pp pg pag pág págs vol ch chap cap art arts sec sect para op tel ext kap tab
    abb ziff jan feb mar apr jun jul aug sep sept oct okt nov dec dez пп
    """
)
# Plurals by a doubled letter: Spanish "EE. UU." and "FF. AA.", French "MM.", Italian "AA. VV.", Polish "oo.", Russian
# "гг.". Roman numerals look alike ("World War II. Then"), and a sentence may end behind a number ("1945 гг.").
_DOUBLED = re.compile(r"(?!II|XX)([^\W\d_])\1")
_SMALL_DOUBLED = _words("гг вв пп тт рр сс oo ss pp ff")
_OPENING = "\"'“”‘’„‚«»‹›([{<¿¡—–-"
_LONGEST = 24
_FIRST_THAI, _LAST_LAO = "\u0e00", "\u0eff"  # their sentences end without a full stop
_FIRST_CJK = "\u2e80"  # from here on, one character may be a word: Korean "네."


def ends_abbreviation(text: str, stop: int, following: str) -> bool:
    """Whether the full stop at an index belongs to an abbreviation, an initial or an ordinal ("3. Oktober").

    Args:
        text: Any text.
        stop: The index of a full stop.
        following: The character that the next word begins with.
    """
    if stop == 0 or text[stop - 1].isspace():
        return False
    *_, before, word = ["", *text[max(0, stop - _LONGEST) : stop].split()]
    if _is_abbreviation(word, following.isdecimal()):
        return True
    word = word.lstrip(_OPENING)
    is_doubled = word in _SMALL_DOUBLED or (word.isupper() and _DOUBLED.fullmatch(word) is not None)
    return is_doubled and not before[-1:].isdecimal()


@lru_cache(4_096)
def _is_abbreviation(word: str, before_number: bool) -> bool:
    word = word.lstrip(_OPENING).casefold()
    if word.isdecimal():
        return len(word) <= 2
    # One letter, with its vowel signs, or parts of one or two: "j", "u.s", "ph.d", "т.д".
    letters = [sum(map(str.isalpha, part)) for part in word.split(".")]
    are_initials = word < _FIRST_CJK and min(letters) >= 1 and max(letters) <= (2 if len(letters) > 1 else 1)
    return (
        word in _WORDS
        or (word in _BEFORE_NUMBERS and before_number)
        or are_initials
        or _FIRST_THAI <= word[-1:] <= _LAST_LAO
    )
