"""Which words belong to a concept, for judging a search that never sees them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A concept as it may be typed, and the words that belong to it, in lower case."""

    name: str
    typed: tuple[str, ...]
    listed: str

    @property
    def words(self) -> frozenset[str]:
        """The words that count as hits."""
        return frozenset(self.listed.split())


TOPICS = (
    Topic(
        "colours",
        ("colours red", "colours"),
        """
            red orange yellow green blue purple violet pink brown black white grey gray indigo cyan magenta
            turquoise teal scarlet crimson maroon beige ivory gold golden silver lavender lilac navy olive aqua
            amber azure coral tan bronze burgundy emerald khaki mauve ochre peach plum rose ruby sapphire salmon
            sienna auburn blond blonde charcoal chartreuse colour color colours colors colored coloured colorful
            reddish bluish greenish yellowish brownish whitish hue shade tint rgb pigment greens reds blues
            whites blacks dye dark bright pale
        """,
    ),
    Topic(
        "months",
        ("months January", "January"),
        """
            january february march april may june july august september october november december jan feb mar
            apr jun jul aug sep sept oct nov dec month months monthly
        """,
    ),
    Topic(
        "countries",
        ("countries France", "countries"),
        """
            afghanistan albania algeria argentina armenia australia austria azerbaijan bahamas bahrain
            bangladesh barbados belarus belgium belize bolivia bosnia botswana brazil britain bulgaria burma
            cambodia cameroon canada chad chile china colombia congo croatia cuba cyprus czech czechoslovakia
            denmark ecuador egypt england eritrea estonia ethiopia fiji finland france gambia georgia germany
            ghana greece greenland guatemala guinea guyana haiti honduras hungary iceland india indonesia iran
            iraq ireland israel italy jamaica japan jordan kazakhstan kenya korea kosovo kuwait laos latvia
            lebanon liberia libya lithuania luxembourg macedonia madagascar malawi malaysia maldives mali malta
            mauritius mexico moldova mongolia morocco mozambique myanmar namibia nepal netherlands holland
            zealand nicaragua niger nigeria norway oman pakistan palestine panama paraguay peru philippines
            poland portugal qatar romania russia rwanda samoa scotland senegal serbia singapore slovakia
            slovenia somalia spain sri sudan suriname sweden switzerland syria taiwan tajikistan tanzania
            thailand tibet togo tonga trinidad tunisia turkey uganda ukraine uk usa us ussr uae uruguay
            uzbekistan venezuela vietnam wales yemen yugoslavia zambia zimbabwe country countries nation nations
            america
        """,
    ),
    Topic(
        "sports",
        ("sports football", "sports"),
        """
            football soccer basketball baseball tennis golf hockey rugby cricket volleyball swimming cycling
            boxing wrestling gymnastics athletics skiing skating surfing rowing sailing badminton softball
            lacrosse polo archery fencing judo karate bowling running marathon triathlon sport sports sporting
            athlete athletes athletic olympic olympics championship championships tournament tournaments league
            leagues team teams player players coach coaches coaching nba nfl nhl mlb fifa ncaa uefa espn stadium
            goalkeeper striker quarterback playoff playoffs cup racing game games ball match matches season
            referee score scoring goals goal nascar wimbledon medal medals chess workout gym ski swim swimmer
            skater golfer wrestler boxer
        """,
    ),
    Topic(
        "animals",
        ("animals dog", "animals"),
        """
            animal animals dog dogs cat cats horse horses cow cows pig pigs sheep goat goats lion lions tiger
            tigers bear bears wolf wolves fox foxes deer rabbit rabbits mouse mice rat rats bird birds fish
            fishes snake snakes frog frogs turtle turtles elephant elephants monkey monkeys ape apes gorilla
            chimpanzee chimpanzees whale whales dolphin dolphins shark sharks eagle eagles owl owls duck ducks
            goose geese chicken chickens hen rooster turkey turkeys bee bees ant ants spider spiders butterfly
            butterflies insect insects mammal mammals reptile reptiles amphibian amphibians puppy puppies kitten
            kittens pet pets livestock cattle wildlife beast beasts creature creatures crocodile crocodiles
            alligator lizard lizards dinosaur dinosaurs penguin penguins parrot parrots pigeon crow hawk falcon
            bat bats squirrel squirrels hamster camel giraffe zebra hippo rhino rhinoceros kangaroo koala panda
            pandas otter seal seals octopus squid crab crabs shrimp lobster snail snails worm worms mosquito
            mosquitoes fly flies beetle beetles moth moths canine feline predator predators prey fauna species
            salmon trout tuna bull ox donkey mule pony lamb calf buffalo bison moose elk leopard cheetah jaguar
            hedgehog raccoon badger beaver ferret swan peacock ostrich hummingbird caterpillar caterpillars
            dragonfly zoo bunny veterinary primate primates rodent rodents breed breeds
        """,
    ),
    Topic(
        "family words",
        ("family mother", "family"),
        """
            mother father parent parents son sons daughter daughters brother brothers sister sisters uncle
            uncles aunt aunts cousin cousins nephew nephews niece nieces grandfather grandmother grandparent
            grandparents grandson granddaughter grandchildren grandma grandpa mom moms mum dad dads mommy daddy
            mama papa wife wives husband husbands spouse spouses child children kid kids baby babies infant
            infants family families familial sibling siblings twin twins stepfather stepmother married marriage
            marriages bride groom widow fiance ancestor ancestors relative relatives kin kinship maternal
            paternal parental parenting motherhood fatherhood mothers fathers household households offspring
            toddler toddlers fiancé
        """,
    ),
    Topic(
        "programming languages",
        ("programming languages", "Python"),
        """
            python java javascript typescript c++ c# php perl ruby rust golang swift kotlin scala haskell lisp
            scheme fortran cobol pascal basic matlab julia lua sql html css xml bash shell erlang elixir clojure
            prolog groovy dart delphi assembly ada cuda verilog vb visualbasic julialang py js ts cpp rb jsx
            programming programmer programmers programmed program programs code coding coder coders compiler
            compilers script scripts scripting software syntax jquery django flask numpy pandas node nodejs
            react angular jvm json yaml linux api apis algorithm algorithms developer developers debugger
            debugging ide interpreter language languages sas stata vba pytorch tensorflow scipy matplotlib
            postgresql mysql sqlite
        """,
    ),
    Topic(
        "food",
        ("food bread", "food"),
        """
            food foods bread cheese meat meats beef pork chicken fish rice pasta noodles soup soups salad salads
            fruit fruits vegetable vegetables apple apples banana bananas orange oranges grape grapes lemon
            lemons tomato tomatoes potato potatoes carrot carrots onion onions garlic pepper peppers salt sugar
            butter milk cream yogurt egg eggs cake cakes cookie cookies pie pies chocolate candy dessert
            desserts pizza burger burgers sandwich sandwiches sauce sauces spice spices herb herbs breakfast
            lunch dinner supper meal meals snack snacks dish dishes cuisine cuisines recipe recipes cooking cook
            cooked cooks chef chefs eat eating eaten ate eats edible bake baked baking fried grilled roast
            roasted culinary restaurant restaurants kitchen ingredient ingredients flavor flavors flavour taste
            tasty delicious diet diets dietary nutrition nutritious bacon ham sausage sausages steak shrimp
            salmon tuna seafood bean beans nut nuts peanut peanuts almond almonds honey jam oil flour dough
            wheat corn oats cereal cereals mushroom mushrooms spinach broccoli cabbage lettuce cucumber berry
            berries strawberry strawberries avocado mango pineapple coconut peach beverage beverages drink
            drinks coffee tea wine beer juice feast hungry hunger appetite grocery groceries vegan vegetarian
            grain grains protein olive curry sushi tofu vinegar
        """,
    ),
    Topic(
        "body parts",
        ("body hand", "body"),
        """
            head heads face faces eye eyes ear ears nose noses mouth mouths lip lips tooth teeth tongue tongues
            neck necks shoulder shoulders arm arms elbow elbows wrist wrists hand hands finger fingers thumb
            thumbs nail nails chest breast breasts back stomach belly abdomen abdominal waist hip hips leg legs
            thigh thighs knee knees ankle ankles foot feet toe toes heel heels skin hair brain brains heart
            hearts lung lungs liver livers kidney kidneys bone bones muscle muscles blood vein veins artery
            arteries nerve nerves spine spinal skull skulls rib ribs throat throats jaw jaws chin cheek cheeks
            forehead eyebrow eyebrows eyelid eyelids body bodies bodily limb limbs torso palm palms fist fists
            forearm pelvis pelvic intestine intestines bladder uterus ovary ovaries tissue tissues organ organs
            joint joints tendon tendons ligament gland glands scalp beard anatomy flesh gut bowel colon thyroid
            pancreas spleen esophagus trachea cornea retina vertebrae cartilage
        """,
    ),
    Topic(
        "numbers",
        ("numbers seven", "numbers"),
        """
            zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
            sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
            hundreds thousand thousands million millions billion billions trillion dozen dozens first second
            third fourth fifth sixth seventh eighth ninth tenth twice thrice once number numbers numeric
            numerical digit digits integer integers half quarter couple several both double triple quadruple
            single pair few many multiple percent threes twos tens 0 1 2 3 4 5 6 7 8 9 i ii iii iv v vi vii viii
            ix x
        """,
    ),
    Topic(
        "emotions",
        ("emotions anger", "emotions"),
        """
            emotion emotions emotional emotionally feeling feelings feel mood moods happy happiness joy joyful
            sad sadness anger angry rage fury furious fear fearful afraid scared terrified terror horror anxiety
            anxious worry worried love hate hatred disgust surprise surprised shame guilt guilty pride proud
            envy jealous jealousy grief sorrow despair hope hopeful excited excitement enthusiasm enthusiastic
            depressed depression loneliness lonely bored boredom frustration frustrated frustrating annoyance
            annoyed irritation irritated calm contentment content delight delighted pleasure ecstatic
            embarrassed embarrassment regret remorse sympathy empathy compassion affection passion passionate
            panic stress stressed nervous misery miserable upset shocked shock confused confusion satisfaction
            satisfied gratitude grateful relief relieved melancholy nostalgia nostalgic resentment bitterness
            outrage outraged dread cheerful gloom gloomy trauma distress tears crying laughter laugh smile
            anguish longing desire pain painful suffering resentful awe optimism optimistic pessimism mad
            heartbreak cry sentiment sentiments
        """,
    ),
    Topic(
        "professions",
        ("professions doctor", "professions"),
        """
            profession professions professional professionals job jobs career careers occupation occupations
            doctor doctors nurse nurses teacher teachers lawyer lawyers engineer engineers scientist scientists
            artist artists writer writers author authors actor actors actress actresses musician musicians
            singer singers painter painters photographer photographers journalist journalists editor editors
            farmer farmers soldier soldiers police policeman officer officers firefighter firefighters chef
            chefs cook cooks waiter baker bakers butcher carpenter carpenters plumber plumbers electrician
            electricians mechanic mechanics driver drivers pilot pilots captain sailor architect architects
            accountant accountants banker bankers manager managers director directors secretary clerk clerks
            judge judges attorney attorneys dentist dentists surgeon surgeons physician physicians pharmacist
            pharmacists psychologist psychologists psychiatrist psychiatrists therapist therapists veterinarian
            veterinarians professor professors researcher researchers programmer programmers developer
            developers designer designers consultant consultants analyst analysts economist economists historian
            historians philosopher philosophers mathematician mathematicians physicist physicists chemist
            chemists biologist biologists astronomer astronomers geologist geologists archaeologist
            archaeologists librarian librarians priest priests politician politicians entrepreneur entrepreneurs
            merchant merchants tailor barber coach coaches athlete athletes dancer dancers poet poets novelist
            novelists composer composers sculptor sculptors filmmaker filmmakers producer producers technician
            technicians worker workers employee employees employer employers instructor instructors tutor tutors
            educator educators counselor counselors administrator administrators contractor contractors
            practitioner practitioners clinician clinicians pediatrician pediatricians specialist specialists
            expert experts inspector detective detectives salesperson salesman realtor broker brokers agent
            agents staff personnel
        """,
    ),
)

UNSEEN = (
    Topic(
        "weekdays",
        ("Monday",),
        """
            monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun
            weekday weekdays weekend weekends week weeks weekly day days mondays fridays saturdays sundays
            tuesdays thursdays wednesdays
        """,
    ),
    Topic(
        "religion",
        ("religion church",),
        """
            religion religions religious church churches christian christians christianity christ jesus god gods
            bible biblical islam islamic muslim muslims mosque jewish jews judaism hindu hindus hinduism
            buddhist buddhists buddhism faith faiths prayer prayers pray praying worship priest priests bishop
            bishops pope saint saints holy sacred divine divinity spiritual spirituality temple temples theology
            theological catholic catholics catholicism protestant protestants orthodox baptist methodist
            lutheran gospel heaven hell sin sins soul monk monks nun nuns rabbi pastor pastors clergy ministry
            congregation scripture scriptures quran torah sermon baptism lord angel angels prophet prophets
            apostle apostles evangelical sect believers religiously monastery cathedral parish chapel communion
            belief beliefs
        """,
    ),
    Topic(
        "weather",
        ("weather rain",),
        """
            weather rain rainy rains raining rainfall snow snowy snowfall snowing wind winds windy storm storms
            stormy thunder thunderstorm thunderstorms lightning hurricane hurricanes tornado tornadoes cloud
            clouds cloudy sun sunny sunshine fog foggy frost hail heat cold temperature temperatures climate
            climates climatic forecast forecasts forecasting humid humidity drought droughts flood floods
            flooding precipitation breeze blizzard warm hot freezing monsoon cyclone cyclones ice icy mist
            drizzle meteorological meteorology meteorologist meteorologists atmosphere atmospheric winter summer
            wet dry damp sky skies typhoon rainwater moisture chilly barometer
        """,
    ),
    Topic(
        "music",
        ("music guitar",),
        """
            music musical musically musician musicians guitar guitars guitarist piano pianos pianist violin
            violins drum drums drummer drumming bass flute trumpet cello saxophone clarinet harp organ song
            songs songwriter singing sing sings singer singers vocal vocals vocalist melody melodies melodic
            rhythm rhythms rhythmic harmony harmonies harmonic chord chords tune tunes tuned concert concerts
            band bands orchestra orchestras orchestral symphony opera jazz rock blues pop rap folk album albums
            composer composers compose composed composition compositions lyrics lyric lyrical sonata instrument
            instruments instrumental ensemble choir chorus genre genres playlist spotify acoustic audio sound
            sounds strings keyboard tempo beat beats dance soundtrack classical duet quartet ukulele note notes
            banjo reggae recording
        """,
    ),
    Topic(
        "vehicles",
        ("car",),
        """
            car cars truck trucks bus buses van vans vehicle vehicles automobile automobiles automotive auto
            motor motorcycle motorcycles bike bikes bicycle bicycles train trains tram plane planes airplane
            aircraft helicopter boat boats ship ships taxi driver drivers drive driving driven engine engines
            wheel wheels tire tires tyre traffic highway road roads garage parking ford toyota honda bmw audi
            tesla chevrolet nissan mercedes volkswagen porsche ferrari jeep sedan suv transport transportation
            fuel gasoline brake brakes ride racing scooter tractor carriage wagon motorists dealership parked
            passenger passengers
        """,
    ),
    Topic(
        "money",
        ("money",),
        """
            money cash dollar dollars euro euros pound pounds cent cents currency currencies bank banks banking
            banker bankers coin coins payment payments pay paid paying price prices cost costs income revenue
            revenues profit profits budget budgets fund funds funding financial finance finances financially
            financing loan loans debt debts tax taxes wealth wealthy rich investment investments invest investor
            investors investing salary salaries wage wages credit fee fees savings save monetary economy
            economic spend spending spent earn earning earnings buck bucks bitcoin capital asset assets interest
            mortgage donate donation donations donated yen usd rupees affordable expensive
        """,
    ),
    Topic(
        "clothes",
        ("clothes shirt",),
        """
            clothes clothing cloth shirt shirts dress dresses dressed skirt skirts trousers pants jeans shorts
            jacket jackets coat coats hat hats shoe shoes boot boots sock socks glove gloves scarf tie suit
            suits sweater sweaters hoodie underwear bra uniform uniforms costume costumes outfit outfits garment
            garments fashion wear wearing wore worn fabric fabrics leather cotton wool silk apparel attire robe
            robes sleeve sleeves collar pocket pockets button belt belts sandals sneakers tshirt blouse gown
            lingerie denim textile textiles tunic cap caps helmet knit knitted sew sewing tailor veil
        """,
    ),
    Topic(
        "war",
        ("war",),
        """
            war wars warfare battle battles battlefield army armies soldier soldiers military troops troop fight
            fighting fought combat conflict conflicts weapon weapons invasion invaded invade attack attacks
            attacked enemy enemies victory defeat defeated siege bomb bombs bombing gun guns missile missiles
            navy naval warrior warriors wartime postwar peace treaty general commander nazi hitler veteran
            veterans civil revolution rebel rebels rebellion militia occupation violence killed casualties
            allied allies tank tanks armed fighter fighters genocide armistice front casualty napoleon
            confederate warring hostilities ceasefire
        """,
    ),
)
"""Concepts that no setting of the search was chosen on."""

PHRASES = (
    Topic(
        "negation",
        ("negation",),
        """
            not no never none nothing nobody nowhere nor neither without cannot can't don't won't n't t isn isnt aren
            arent wasn wasnt weren doesn doesnt didn didnt don dont won wont wouldn wouldnt couldn couldnt shouldn
            hasn hasnt haven havent hadn hadnt ain aint cant can't non un unable lack lacks lacking lacked absent
            absence fail fails failed failing refuse refuses refused refusing deny denies denied denying denial
            negative negatives negatively negate negated negation negating false hardly rarely seldom barely
            scarcely nope nah neg noone nought zero zilch nil null void nonexistent impossible unlikely unless
            lest incapable inability nonetheless nay contradiction contradict contradicts deniable unwilling
            wouldn't couldn't shouldn't isn't wasn't doesn't didn't nonsense except less
        """,
    ),
    Topic(
        "legal terms",
        ("legal terms",),
        """
            law laws legal legally lawyer lawyers attorney attorneys court courts judge judges judicial judiciary
            judgment judgments judgement jury juries juror jurors verdict verdicts trial trials plaintiff plaintiffs
            defendant defendants prosecution prosecutor prosecutors prosecuted prosecute defense defence lawsuit
            lawsuits litigation litigate sue sued suing suits suit appeal appeals appellate tribunal tribunals
            statute statutes statutory constitution constitutional unconstitutional legislation legislative
            legislature jurisdiction jurisdictions clause clauses contract contracts contractual liability liable
            negligence damages tort testimony testify testified testifying witness witnesses affidavit subpoena
            warrant warrants injunction injunctive indictment indicted convicted conviction convictions guilty
            acquitted acquittal sentencing sentenced felony felonies misdemeanor crime criminal criminals civil
            counsel counsels barrister solicitor litigant litigants petition petitioner petitioners respondent
            ruling rulings ruled dismiss dismissed arbitration mediation settlement settlements evidence
            evidentiary hearsay bail probation parole custody precedent precedents probate estate patent patents
            copyright copyrights trademark trademarks infringement deed notary oath perjury justice justices
            supreme lawful unlawful unlawfully lawfully illegal illegally legality fraud fraudulent compliance
            regulations regulation regulatory enforceable enforcement enforce enforced provisions provision
            hereby herein thereof hereof therein hereinafter aforementioned pursuant whereas terms agreement
            agreements licensee licensor license indemnify indemnity warranty warranties rights violation
            violations violated magistrate docket bankruptcy complaint complaints allegation allegations alleged
            allegedly accused accusation adjudication hearing hearings legalized legislators amendment amendments
            obligation obligations breach breaches breached court's attorney's
        """,
    ),
    Topic(
        "German words",
        ("German words",),
        """
            der die das den dem des ein eine einen einem einer eines und oder aber nicht kein keine ist sind war
            waren wird werden wurde wurden haben hat hatte hatten sein bin bist seid ich du er sie es wir ihr mich
            dich sich uns euch mir dir ihm ihn ihnen mein meine dein deine seine unser ihre ihren ihrem auf aus bei
            mit nach seit von zu zum zur vom im am ins ans beim durch gegen ohne um bis vor hinter neben zwischen
            unter über für dass daß weil wenn als ob wie wo was wer wann warum welche welcher welches diese dieser
            dieses diesem diesen jene jeder jede jedes alle alles viel viele mehr sehr auch noch schon nur immer
            hier dort dann jetzt heute gestern morgen wieder so doch ja nein man kann können konnte muss müssen
            soll sollen sollte will wollen wollte darf dürfen mag mögen möchte machen macht gemacht gehen geht
            kommen kommt gekommen sehen sieht sagen sagt gesagt geben gibt gegeben finden lassen stehen bleiben
            liegen leben lebens arbeit arbeiten zeit jahr jahre jahren tag tage mann frau kind kinder haus stadt
            land welt wasser hand auge kopf herz weg ende anfang schule buch geld krieg frieden freund mutter vater
            bruder schwester sohn tochter gut groß gross klein alt neu neue neuen jung schön deutsch deutsche
            deutschen deutscher deutsches deutschland german germans germany berlin münchen hamburg köln wien
            österreich schweiz bundes reich volk straße strasse strassenbahn burg berg wald stein feld bach dorf
            kirche schloss platz markt gesellschaft geschichte wissenschaft regierung kultur musik zug bahn bahnhof
            zwei drei vier fünf sechs sieben acht neun zehn hundert tausend lich ung ungen keit heit schaft isch
            ische ischen liche lichen chen lein gesch eins zurück ab an auf über zwischen aktuell beispiel etwas
            habe hast würde seinen seiner wurden einer während bitte danke guten morgen abend nacht auch herr
            sch schen tier und zur deren dessen ganz mal nun also kaiser führer reichs nazi nazis hitler deutsch
            merkel habsburg prussia prussian bavaria bavarian wagner goethe schiller kant beethoven
        """,
    ),
    Topic(
        "anger at injustice",
        ("anger at injustice",),
        """
            anger angry angrily angered rage raged raging enraged fury furious infuriated infuriating outrage
            outraged outrageous indignation indignant resentment resentful wrath irate mad frustration frustrated
            bitterness bitter hatred hostility disgust injustice injustices unjust unjustly unfair unfairly
            unfairness justice oppression oppressed oppressive oppressor oppressors inequality inequalities
            inequity inequities discrimination discriminated discriminatory racism racist racists bigotry prejudice
            prejudices mistreatment mistreated abuse abused abuses abusive exploitation exploited cruelty cruel
            brutality brutal persecution persecuted tyranny tyrant corruption corrupt wrong wrongs wronged
            wrongdoing grievance grievances protest protests protested protesters protesting protestors rebellion
            rebel rebels revolt revolts riot riots uprising uprisings activism activist activists dissent
            resistance hate hated despise despised contempt condemn condemned condemnation denounce denounced
            sexism misogyny segregation slavery apartheid victimized victim victims violation violations violated
            atrocities atrocity betrayal betrayed shame shameful violence offended offense offensive scorn
            complaint complaints complained blame blamed accusation accusations vengeance revenge retaliation
            appalled appalling deplorable hypocrisy disgrace disgraceful marginalized stigma inhumane immoral
            unethical unacceptable intolerable harassment harassed
        """,
    ),
    Topic(
        "kinship",
        ("kinship",),
        """
            kin kinship mother mothers father fathers parent parents son sons daughter daughters brother brothers
            sister sisters uncle uncles aunt aunts auntie cousin cousins nephew nephews niece nieces grandfather
            grandmother grandparent grandparents grandfathers grandmothers grandson grandsons granddaughter
            granddaughters grandchild grandchildren grandma grandpa mom moms mum dad dads mommy daddy mama papa
            wife wives husband husbands spouse spouses child children family families familial sibling siblings
            twin twins stepfather stepmother marriage marriages married marry bride groom widow widower ancestor
            ancestors ancestral ancestry descendant descendants descent lineage lineages clan clans tribe tribes
            tribal relative relatives maternal paternal parental fraternal motherhood fatherhood brotherhood
            sisterhood household households offspring heir heirs genealogy genealogical dynasty bloodline heritage
            patriarch matriarch patrilineal matrilineal orphan orphans adoption adopted adoptive inheritance
            relation relations related relatedness kinsmen inlaws law
        """,
    ),
    Topic(
        "past tense verbs",
        ("past tense verbs",),
        """
            was were had did went came saw said told made took gave got found knew thought felt became began left
            kept held brought bought caught taught fought sought stood understood sat sent spent lent built met
            read led fed ran won lost paid laid lay heard meant wrote rode drove rose spoke broke chose froze woke
            stole wore tore swore bore grew threw flew blew drew knew showed saw ate fell forgot forgave drank sang
            sank rang swam sprang shrank struck stuck hung swung clung dug spun shot slept wept crept swept dealt
            dreamt leapt knelt burnt learnt spelt hid bit slid fled bred sped bled lit shook forsook mistook awoke
            arose hit cut put shut set let cost hurt quit asked answered called used worked looked seemed helped
            talked turned started showed played moved lived believed happened provided included continued learned
            changed watched followed stopped created spoke allowed added opened walked offered remembered loved
            considered appeared waited served died expected stayed reached killed remained suggested raised passed
            sold required reported decided pulled explained hoped developed carried received agreed supported
            hated produced covered described pointed listened realized wanted needed tried joined caused noticed
            claimed entered finished wondered arrived returned introduced replied smiled laughed cried jumped
            lifted dropped pushed touched closed shouted whispered sighed nodded stared glanced shrugged grabbed
            leaned stepped rushed discovered invented founded established published appeared attended married
            managed earned moved marched attacked defeated ruled conquered captured escaped died visited traveled
            travelled worked studied graduated retired announced declared stated confirmed admitted argued noted
            revealed performed achieved designed launched released refused failed succeeded gained hired fired
            signed adopted ended involved led played scored helped been done gone seen taken given known written
            spoken broken chosen driven eaten fallen grown shown thrown worn drawn stolen begun become could would
            should might ed past tense verb verbs tenses
        """,
    ),
    Topic(
        "units of measurement",
        ("units of measurement",),
        """
            unit units measure measures measured measurement measurements measuring meter meters metre metres
            centimeter centimeters centimetre centimetres millimeter millimeters millimetres kilometer kilometers
            kilometre kilometres inch inches foot feet yard yards mile miles gram grams kilogram kilograms
            milligram milligrams kg mg lb lbs pound pounds ounce ounces oz ton tons tonne tonnes liter liters
            litre litres milliliter milliliters ml gallon gallons quart quarts pint pints cup cups tablespoon
            teaspoon second seconds minute minutes hour hours day days week weeks month months year years degree
            degrees celsius fahrenheit kelvin watt watts kilowatt kilowatts volt volts amp amps ampere amperes ohm
            ohms joule joules calorie calories newton newtons pascal hertz hz khz mhz ghz byte bytes kilobyte
            megabyte megabytes gigabyte gigabytes mb gb tb kb acre acres hectare hectares cm mm km nm nanometer
            nanometers micrometer micrometers micron microns decibel decibels db metric imperial length height
            width weight mass volume density cubic square mph kph kmh ft sq psi kpa kw kwh mw scale scales ruler
            mole moles molar parsec lightyear kilo milli micro nano centi mega giga thermometer dose dosage
            percent percentage barrels bushels horsepower
        """,
    ),
    Topic(
        "musical instruments",
        ("musical instruments",),
        """
            instrument instruments instrumental guitar guitars guitarist piano pianos pianist violin violins
            violinist viola cello cellist bass drum drums drummer drumming percussion flute flutes trumpet trumpets
            trombone tuba clarinet oboe bassoon saxophone sax horn horns harp harpsichord organ organs organist
            keyboard keyboards synth synthesizer ukulele banjo mandolin fiddle lute sitar accordion harmonica
            bagpipes xylophone tambourine cymbal cymbals bell bells gong recorder whistle pipe pipes bugle strings
            string brass woodwind orchestra orchestral orchestras ensemble band bands music musical musician
            musicians musically symphony concerto sonata quartet chord chords tune tuning tuned melody play played
            playing plays player players acoustic amplifier amp bow bows fret frets pedal pedals percussionist
            timpani marimba violas cellos guitarists pianists jazz concert concerts solo soloist conductor
        """,
    ),
    Topic(
        "days of the week",
        ("days of the week",),
        """
            monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun
            weekday weekdays weekend weekends week weeks weekly day days daily mondays fridays saturdays sundays
            tuesdays thursdays wednesdays midweek today tomorrow yesterday sabbath biweekly fortnight morning
            afternoon evening
        """,
    ),
    Topic(
        "chemical elements",
        ("chemical elements",),
        """
            element elements elemental chemical chemicals chemistry chemist chemists chemically hydrogen helium
            lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium magnesium aluminum aluminium
            silicon phosphorus sulfur sulphur chlorine argon potassium calcium scandium titanium vanadium chromium
            manganese iron cobalt nickel copper zinc gallium germanium arsenic selenium bromine krypton rubidium
            strontium yttrium zirconium niobium molybdenum technetium ruthenium rhodium palladium silver cadmium
            indium tin antimony tellurium iodine xenon cesium caesium barium lanthanum cerium neodymium tantalum
            tungsten rhenium osmium iridium platinum gold mercury thallium lead bismuth polonium radon radium
            thorium uranium plutonium oxide oxides dioxide monoxide chloride chlorides fluoride fluorides sulfide
            sulfides sulfate sulfates sulphate nitrate nitrates nitride hydride hydroxide carbonate carbonates
            phosphate phosphates bromide iodide atom atoms atomic molecule molecules molecular ion ions ionic
            isotope isotopes metal metals metallic halogen compound compounds acid acids alloy alloys mineral
            minerals gas gases periodic ammonia silicate silica alkali oxidation oxidized oxid ate ides valence
            electron electrons proton protons carbide chlor sulf phosph nitro hydro ferrous aqueous catalyst
        """,
    ),
    Topic(
        "sea travel",
        ("sea travel",),
        """
            sea seas ocean oceans oceanic maritime marine nautical naval navy ship ships shipping shipped shipwreck
            vessel vessels boat boats boating ferry ferries yacht yachts cruise cruises cruising liner sail sails
            sailing sailed sailor sailors seafaring seaman seamen mariner mariners captain crew port ports harbor
            harbour harbors dock docks docked docking pier voyage voyages voyager voyagers navigate navigation
            navigational navigated navigator anchor anchored deck decks mast hull coast coastal coastline shore
            shores offshore onshore seaside beach beaches island islands bay gulf strait tide tides tidal wave
            waves travel travels travelled traveled traveler travelers travelling traveling journey journeys
            expedition expeditions passenger passengers cargo fleet fleets pirate pirates lighthouse submarine
            submarines crossing aboard overseas transatlantic atlantic pacific mediterranean caribbean baltic
            aegean tourism trip trips sink sank drowned wreck buoy canoe kayak raft galley rowing paddle steamship
            seafood seaport seas swim water waters underwater explorer explorers columbus magellan titanic
        """,
    ),
    Topic(
        "greetings and farewells",
        ("greetings and farewells",),
        """
            hello hi hey greetings greeting greet greets greeted welcome welcomes welcomed welcoming bye goodbye
            goodbyes farewell farewells adieu cheers morning evening afternoon night good howdy salutations dear
            sincerely regards thanks thank regards yours hugs kiss kisses hug handshake handshakes bow introduce
            introduction introductions meet met nice pleased goodnight cya later see ciao hola bonjour adios salut
            hallo aloha namaste congratulations congrats folks everyone guys welcome's wave waved invite invited
            guests guest depart departure departing leaving leave parting salute saluted thankyou best wishes wish
            respectfully cordially acknowledge toast hospitality cheer
        """,
    ),
    Topic(
        "poverty and wealth",
        ("poverty and wealth",),
        """
            poverty poor poorer poorest impoverished needy destitute homeless homelessness beggar beggars begging
            hunger starvation famine slum slums debt debts unemployment unemployed underprivileged disadvantaged
            deprivation deprived hardship hardships wealth wealthy wealthier wealthiest rich richer richest riches
            affluent affluence prosperity prosperous fortune fortunes luxury luxurious luxuries millionaire
            millionaires billionaire billionaires tycoon elite elites privileged privilege money monetary income
            incomes inequality inequalities economic economically economy economies financial financially class
            classes socioeconomic wages wage salary welfare capitalism capitalist asset assets inheritance
            inherited possessions property treasure gold charity donations middle-class working-class lowincome
            low-income underclass social disparity disparities abundance abundant scarcity extravagant lavish cash
            profits profit bankrupt bankruptcy aristocracy aristocratic aristocrats nobility peasant peasants
            malnutrition opulent thrift frugal
        """,
    ),
    Topic(
        "sounds animals make",
        ("sounds animals make",),
        """
            sound sounds noise noises noisy bark barks barked barking meow meows purr purring roar roars roared
            roaring growl growls growled growling howl howls howling howled hiss hissed hissing chirp chirps
            chirping tweet tweets tweeting squeak squeaks squeaking quack moo mooing neigh bray bleat oink croak
            croaking buzz buzzing buzzed hum humming hoot hooting cluck crow crowing screech screeching squawk
            snarl snarled snort snorted grunt grunts grunting grunted whine whining whimper bellow yelp yelped yip
            caw cackle chatter trill song songs sing singing sings vocal vocalization vocalizations call calls
            calling loud louder loudly cry cries crying scream screaming screams shriek animal animals dog dogs
            cat cats bird birds cow cows horse horses sheep wolf wolves lion lions owl owls frog frogs pig pigs
            duck ducks bee bees snake snakes chicken chickens rooster whale whales dolphin dolphins insect insects
            whistle whistling echo ear ears hear hearing heard audible acoustic woof baa
        """,
    ),
    Topic(
        "parts of a computer",
        ("parts of a computer",),
        """
            computer computers computing pc pcs laptop laptops desktop desktops cpu cpus gpu gpus processor
            processors chip chips chipset microprocessor motherboard memory ram rom disk disks drive drives ssd hdd
            harddrive storage keyboard keyboards mouse mice monitor monitors screen screens display displays
            printer printers scanner speaker speakers webcam camera microphone usb hdmi port ports cable cables
            socket slot slots card cards graphics fan fans cooling power supply battery batteries adapter charger
            router routers modem network networking ethernet wifi bluetooth hardware software firmware bios circuit
            circuits transistor transistors semiconductor semiconductors silicon core cores cache bus interface
            interfaces peripheral peripherals server servers mainframe tablet tablets touchscreen joystick cd dvd
            floppy intel amd nvidia microsoft apple macbook windows linux mac component components part parts
            electronics electronic digital bit bits byte bytes gigabytes terabytes click cursor pixel pixels
            programmer device devices machine machines
        """,
    ),
    Topic(
        "crime and punishment",
        ("crime and punishment",),
        """
            crime crimes criminal criminals murder murders murdered murderer murderers theft thief thieves steal
            stealing stolen stole robbery robbed robber burglary burglar assault assaults assaulted rape raped
            rapist kidnapping kidnapped arson fraud extortion bribery smuggling trafficking homicide manslaughter
            felony felonies offender offenders offense offenses offence offences victim victims suspect suspects
            gang gangs mafia mob punishment punishments punish punished punishing punitive penalty penalties prison
            prisons prisoner prisoners jail jails jailed imprisonment imprisoned incarceration incarcerated inmate
            inmates sentence sentenced sentences sentencing execution executions executed executioner death hanged
            hanging guillotine convict convicted convicts conviction convictions guilty guilt innocent innocence
            fine fines fined parole probation bail arrest arrests arrested arresting police policeman officer
            officers cop cops detective detectives court courts judge judges jury trial trials law laws lawyer
            justice custody detention detained cell cells warden guard guards prosecuted prosecution prosecutor
            torture tortured whipped violence violent weapon weapons illegal unlawful crimin penal accused
            accomplice perpetrator perpetrators culprit killer killers killing killed delinquency vandalism
            charged charges confession confessed felon felons wrongdoing sin sins
        """,
    ),
    Topic(
        "stars and planets",
        ("stars and planets",),
        """
            star stars starry stellar planet planets planetary planetarium sun solar moon moons lunar earth
            terrestrial mercury venus mars martian jupiter saturn uranus neptune pluto asteroid asteroids comet
            comets meteor meteors meteorite meteorites galaxy galaxies galactic constellation constellations nebula
            nebulae supernova supernovae pulsar quasar orbit orbits orbital orbiting orbited orbiter satellite
            satellites telescope telescopes observatory astronomy astronomer astronomers astronomical astrophysics
            astronaut astronauts cosmos cosmic cosmology universe universes space spacecraft spaceship rocket
            rockets nasa hubble kepler galileo copernicus eclipse eclipses equinox solstice zodiac celestial
            heavens heaven sky skies exoplanet exoplanets dwarf dwarfs gravity gravitational interstellar rover
            probe shuttle alien aliens extraterrestrial crater craters milky luminosity sunlight moonlight
            hemisphere globe apollo astron astro gamma
        """,
    ),
    Topic(
        "falling in love",
        ("falling in love",),
        """
            love loves loved loving lover lovers beloved lovely romance romances romantic romantically affection
            affectionate passion passionate adore adored adores adoration infatuation crush desire desires longing
            yearning heart hearts heartbreak heartfelt kiss kisses kissed kissing hug hugs embrace embraced
            tenderness intimate intimacy sweetheart darling dear dearest boyfriend girlfriend boyfriends
            girlfriends dating date dates dated couple couples courtship flirt flirting wedding weddings marriage
            marry married marrying engaged engagement proposal propose bride groom valentine valentines soulmate
            attraction attracted attractive charming charm charmed smitten devotion devoted fond fondness cherish
            cherished enamored captivated enchanted relationship relationships partner wife husband honeymoon
            cupid lust seduce seduced seduction erotic falling fall fell fallen falls hatred jealous jealousy joy
            happiness happy emotion emotions emotional feelings romeo juliet
        """,
    ),
    Topic(
        "question words",
        ("question words",),
        """
            what who whom whose which where when why how whether whatever whoever whichever wherever whenever
            however whats whos wheres question questions questioned questioning ask asks asked asking inquiry
            inquire inquiries query queries answer answers answered answering answerable interrogative quiz wonder
            wondering wondered interview interviewer questionnaire faq trivia huh que quien por
        """,
    ),
    Topic(
        "learning at school",
        ("learning at school",),
        """
            learn learns learned learning learner learners learnt school schools schooling schooler teach teaches
            teacher teachers teaching taught student students pupil pupils class classes classroom classrooms
            classmates lesson lessons course courses curriculum curricula syllabus homework assignment assignments
            exam exams examination examinations test tests testing quiz quizzes grade grades grading graded
            education educational educate educated educator educators instruction instructional instructor
            instructors tutor tutors tutoring study studies studied studying college colleges university
            universities academic academics academy kindergarten preschool elementary secondary primary graduate
            graduates graduated graduation diploma degree degrees scholarship scholarships scholar scholars
            principal textbook textbooks book books notebook pencil pencils blackboard reading writing math maths
            arithmetic literacy library campus faculty professor professors semester term undergraduate pedagogy
            pedagogical enrolled enrollment enroll attend attendance skill skills knowledge training trained train
            mentor mentoring
        """,
    ),
)
"""Phrases, and single words that name no kind of thing; written before the search that they judge."""

FURTHER = (
    Topic(
        "birds",
        ("ornithology",),
        """
            bird birds avian ornithology ornithologist ornithologists eagle eagles hawk hawks falcon falcons owl owls
            robin robins sparrow sparrows crow crows raven ravens pigeon pigeons dove doves duck ducks goose geese
            swan swans gull gulls heron herons stork crane cranes parrot parrots finch finches woodpecker
            woodpeckers hummingbird hummingbirds penguin penguins ostrich peacock turkey turkeys chicken chickens
            rooster hen hens cardinal cardinals vulture vultures pelican flamingo flamingos albatross warbler
            warblers wren thrush swallow swallows jay jays quail pheasant nest nests nesting egg eggs feather
            feathers feathered wing wings winged beak beaks plumage flock flocks migration migratory songbird
            songbirds birdwatching species wildlife zoology zoological zoologist biology biologist biologists
            naturalist naturalists fly flight flying audubon
        """,
    ),
    Topic(
        "cancer",
        ("oncology",),
        """
            cancer cancers cancerous oncology oncologist oncologists tumor tumors tumour tumours carcinoma lymphoma
            leukemia melanoma sarcoma malignant malignancy malignancies benign metastasis metastatic metastases
            chemotherapy chemo radiation radiotherapy therapy therapies treatment treatments biopsy biopsies
            mammogram screening diagnosis diagnosed diagnostic prognosis remission relapse survivor survivors
            patient patients clinical clinic hospital hospitals surgery surgical surgeon doctor doctors physician
            physicians medical medicine carcinogenic carcinogen carcinogens breast prostate lung ovarian cervical
            colorectal pancreatic hematology pathology radiology cardiology neurology disease diseases oncogene
            hospice palliative onc immunotherapy
        """,
    ),
    Topic(
        "earthquakes",
        ("seismology",),
        """
            earthquake earthquakes quake quakes seismic seismology seismologist seismologists tremor tremors
            aftershock aftershocks epicenter magnitude richter fault faults tectonic tectonics plate plates crust
            mantle volcano volcanoes volcanic eruption eruptions erupted lava magma tsunami tsunamis geology
            geological geologic geologist geologists geophysics landslide landslides earth shaking shake shook
            disaster disasters rupture subduction rock rocks sediment sedimentary wave waves ground
            geophysical underground quaking
        """,
    ),
    Topic(
        "wine",
        ("viticulture",),
        """
            wine wines winery wineries winemaker winemakers winemaking vineyard vineyards vine vines grape grapes
            grapevine viticulture vintage merlot cabernet chardonnay pinot riesling sauvignon bordeaux burgundy
            champagne prosecco sherry port brandy cellar barrel barrels bottle bottles cork ferment fermented
            fermentation fermenting harvest harvested harvesting tasting sommelier alcohol alcoholic beverage
            beverages drink drinks drinking beer beers brewery spirits liquor tannins bouquet glass orchard
            orchards farming agriculture agricultural cultivation cultivated cultivate horticulture fruit fruits
            crop crops grower growers
        """,
    ),
    Topic(
        "cutlery",
        ("cutlery",),
        """
            cutlery knife knives fork forks spoon spoons teaspoon tablespoon silverware utensil utensils tableware
            dish dishes plate plates bowl bowls cup cups mug mugs glass glasses pan pans pot pots kitchen cookware
            blade blades chopsticks napkin napkins table tray trays ladle spatula dining dinner crockery ceramic
            porcelain stainless steel dishwasher kettle saucer tablecloth cutting cut sharp scissors whisk
        """,
    ),
    Topic(
        "shoes",
        ("footwear",),
        """
            footwear shoe shoes boot boots sandal sandals sneaker sneakers slipper slippers heel heels sole soles
            sock socks foot feet toe toes ankle ankles lace laces leather nike adidas puma clothing clothes apparel
            wear wearing wore worn barefoot stockings walk walking walked running shoemaker cobbler fashion
            stilettos loafers clogs garment garments outfit pants gloves hat hats dress
        """,
    ),
    Topic(
        "mathematics",
        ("mathematics",),
        """
            mathematics mathematical mathematically mathematician mathematicians math maths algebra algebraic
            geometry geometric geometrical calculus arithmetic trigonometry statistics statistical probability
            equation equations formula formulas theorem theorems proof proofs lemma integer integers number numbers
            numeric numerical numerator denominator fraction fractions decimal decimals sum sums addition add
            subtract subtraction multiply multiplication multiplied divide division divided quotient remainder
            product matrix matrices vector vectors function functions variable variables derivative derivatives
            integral integrals integration differential polynomial polynomials quadratic linear logarithm
            logarithmic exponent exponents exponential square root roots triangle triangles circle circles angle
            angles radius diameter hypotenuse sine cosine tangent euclid euclidean pythagorean gauss euler prime
            primes factor factors set sets graph graphs axis coordinates calculate calculated calculation
            calculations calculator compute solve solving computation topology infinity pi logic logical abacus
            arithm geom trig combinatorics axiom axioms
        """,
    ),
    Topic(
        "politics",
        ("politics",),
        """
            politics political politically politician politicians government governments governmental govern
            governance parliament parliamentary congress congressional senate senator senators senatorial president
            presidents presidential presidency minister ministers ministry cabinet chancellor governor governors
            mayor mayors legislature legislative legislation lawmakers lawmaker congressman congresswoman
            representative representatives election elections elected elect electoral vote votes voted voter voters
            voting ballot ballots poll polls campaign campaigns campaigning candidate candidates party parties
            partisan bipartisan democrat democrats democratic democracy democracies republican republicans republic
            liberal liberals conservative conservatives socialist socialism socialists communist communism fascist
            fascism left right policy policies diplomacy diplomatic diplomat diplomats ideology ideological regime
            regimes leader leaders leadership opposition coalition lobbying lobbyist activist activists activism
            protest referendum constitution constitutional state federal administration obama trump biden clinton
            bush reagan putin merkel gop labour tory tories whig feminism geopolitical geopolitics
        """,
    ),
)
"""Single words, most of them of several tokens; written before the search that they judge."""
