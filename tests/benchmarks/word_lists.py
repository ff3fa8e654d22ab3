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
