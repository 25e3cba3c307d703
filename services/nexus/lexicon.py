"""The words that the rules for slots and numbers know. Data, and the one function that reads it."""

from __future__ import annotations

from typing import Final


def words(text: str) -> list[str]:
    """The words of a block of text."""
    return text.split()


CURRENCIES: Final = {
    "AZR": words("azr azure azures azurs"),
    "USD": words("usd dollar dollars buck bucks"),
    "EUR": words("eur euro euros"),
    "GBP": words("gbp pound pounds quid sterling"),
    "ZAR": words("zar rand rands"),
    "JPY": words("jpy yen"),
    "CHF": words("chf franc francs"),
    "KES": words("kes shilling shillings"),
    "NGN": words("ngn naira nairas"),
    "INR": words("inr rupee rupees"),
    "CNY": words("cny yuan renminbi"),
    "AUD": words("aud"),
    "CAD": words("cad"),
    "BWP": words("bwp pula"),
    "BRL": words("brl reais"),
    "SEK": words("sek kronor"),
}
SYMBOLS: Final = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₦": "NGN", "₹": "INR"}
CURRENCY_OF: Final = {word: code for code, names in CURRENCIES.items() for word in names}

UNITS: Final = words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
TENS: Final = words("twenty thirty forty fifty sixty seventy eighty ninety")

SEND_VERBS: Final = frozenset(
    words(
        """
        send pay give wire transfer lend tip slip shoot zap hand forward remit owe gift drop spot repay loan
        reimburse refund sending paying giving
        """
    )
)
ASK_VERBS: Final = frozenset(
    words(
        """
        ask bill invoice remind charge tell have nudge chase get request debit
        """
    )
)
KIN: Final = frozenset(
    words(
        """
        mom mum mother dad father brother sister friend boss landlord wife husband son daughter uncle aunt cousin
        roommate flatmate neighbour neighbor colleague partner gran grandma grandpa buddy mate
        """
    )
)
NOT_NAMES: Final = frozenset(
    words(
        """
        a an the my your his her their our its this that these those some any all more money cash funds payment
        payments request me you him it them us i he she we they who what where when how why which and or but not no
        yes to for from with in on at by of as into over via using about up out off back down right now today tomorrow
        tonight yesterday please asap immediately quickly soon later again then so if because is are was were be been
        do does did can could would should will shall may might must have has had need want like go get let make take
        put account accounts wallet card bank transfer transfers transaction transactions balance rent lunch dinner
        breakfast coffee taxi gift food groceries electricity water bill bills phone internet insurance school fees
        everyone someone anyone somebody anybody nobody everything something anything nothing one once twice here
        there home work holiday trip person people wrong half rest amount total last next first week month year day
        monday tuesday wednesday thursday friday saturday sunday january february march april june july august
        september october november december hi hey hello thanks thank just only also too very really well ok okay sure
        exactly around approximately roughly send pay give wire owe owes owed ask hundred thousand number million
        grand k each per worth less than receive collect reimburse see know open close check show change buy sell
        exchange convert borrow lend spend save withdraw deposit cancel undo reverse stop start freeze block lock
        unlock talk speak help find look figure keep move shift share split set raise lower increase create add remove
        update use try think say tell settle repay return refund charge invoice remind chase forward shoot drop
        """
    )
)

PURPOSES: Final = frozenset(
    words(
        """
        airtime bill birthday books breakfast bus cab car cinema coffee concert data deposit dinner drinks electricity
        fare fees flight flowers food fuel gas gift groceries gym haircut hotel insurance internet invoice laundry
        loan lunch meal medicine movie parking petrol phone pizza present rent repair school shoes shopping snacks
        subscription supper taxi tea ticket tickets train transport trip tuition uber utilities wages water wedding
        """
    )
)
"""What a payment may be for, in its sentence. Any other purpose goes by covenant's own address, as a memo."""

INDEFINITE: Final = frozenset(
    words(
        """
        whoever whomever whichever whatever whose neither either both another other others nobody none noone oneself
        myself yourself himself herself itself ourselves themselves mine yours hers theirs nowhere somewhere anywhere
        everywhere elsewhere everybody many most few several various random same stranger strangers people folks false
        true null nil undefined nan unknown winner sender recipient recipients payee beneficiary customer client user
        friends family charity nothing zero infinity
        """
    )
)
"""Words that name nobody in particular."""

FUNCTION_WORDS: Final = frozenset(
    words(
        """
        aboard about above across after against ago albeit all almost along alongside already also although altogether
        always am amid amidst among amongst annually another any anyhow anymore anyway apart approx approximately around
        as aside at away barely because before beforehand afterward afterwards behind below beneath beside besides
        between beyond biannually bimonthly both but by circa concerning constantly continually currently daily despite
        double down during each either else enough equally especially etc even eventually ever evermore every except
        excluding exactly extra few fewer following forever former formerly forth fortnightly forthwith frequently
        further furthermore gradually half halfway hardly hence henceforth hereafter hitherto hopefully hourly how
        however hypothetically if immediately in including indeed infrequently initially inside instead into
        intermittently jan feb mar apr jun jul aug sep sept oct nov dec just last lastly late lately later latter least
        less lest like likely likewise little lot lots loads many max maximum maybe meanwhile merely mid midday
        midnight midway min minimum minus momentarily mon tue tues wed thu thur thurs fri sat sun monthly more moreover
        most mostly much namely near nearby nearly negative nevertheless never next nightly nonetheless nor normally
        notwithstanding noon now occasionally off often on once only onto opposite or ordinarily originally otherwise
        ought out outside over overnight overall partially partly past pending per percent percentage perhaps
        periodically permanently plenty plus positive possibly potentially preferably presently presumably previously
        prior probably provided providing purportedly quarterly quadruple quintuple quite rarely rather regarding
        regardless regularly repeatedly respectively reportedly routinely same scarcely seldom semiannually seriously
        several shortly simply since single some sometime sometimes somehow somewhat still straightaway such supposedly
        supposing temporarily than that thence thereafter therefore thereby though thrice through throughout thus till
        tonight too toward towards treble triple twice twofold threefold tenfold typically ultimately under underneath
        unless unlike unlikely until up upon upto usually versus vs weekly when whence whenever where whereas whereby
        wherever whereupon whether which while whilst whither who whom whomsoever whose whosoever why with within
        without yearly yet ya ye yall thee thou thy thine em
        anon ere oft sans someday upward upwards downward downwards onward onwards forwards backward backwards
        whereof whereon wherein whereafter thereof thereon therein thereto hereby herein hereto hitherto whoso
        nah nay naught nope nought nix nil nowise aint arent cant cannot couldnt didnt doesnt dont hadnt hasnt havent
        isnt mightnt mustnt neednt never nevermind niemals nie nooit nunca jamais nein nyet shant shouldnt wasnt werent
        wont wouldnt donot refuse decline stop wait hold avoid cancelled canceled void invalid
        billion billions dozen dozens hundreds millions pair couple score quarter third thousands tons trillion umpteen
        zillion cent cents pence penny pennies kobo
        example dummy test testing joke jokes kidding practice pretend fun hell heaven jail prison death bed
        bail debt debts tax taxes credit interest cost costs price fee penalty tithe
        """
    )
)
"""English's closed classes (prepositions, conjunctions, quantifiers, negations, adverbs of time, degree and doubt) and
what stands beside a sum: in the place of a name they change the order instead of naming who gets it. A person who is
called so is written ``@max``."""

NAMES_IN_LY: Final = frozenset(
    words(
        """
        ally amberly beverly billy carly charly cicely emily everly holly  kelly kimberly lally
        lesly lily lilly  milly molly nally nataly nelly noely odaly orly polly reilly sally shelly  solly
        sully tally tilly waverly  willy
        """
    )
)
"""Names that end as adverbs do."""
